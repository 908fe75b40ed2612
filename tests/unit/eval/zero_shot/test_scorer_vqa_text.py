"""VQA accuracy: the published rules of normalisation, by hand."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.zero_shot.vqa_text import (
    ARTICLES,
    CONTRACTIONS,
    NUMBERS,
    PUNCTUATION,
    accuracy,
    normalize,
    normalize_m4c,
    vqa_accuracy,
)
from llava.eval.m4c_evaluator import EvalAIAnswerProcessor, TextVQAAccuracyEvaluator


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("Yes", "yes"),
        ("The dog", "dog"),
        ("a an the", ""),
        ("two", "2"),
        ("None", "0"),
        ("ten men", "10 men"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("shes", "shes"),  # not in the published table
        ("somebody'd", "somebodyd"),  # a slip of the published table
        ("red.", "red"),
        ("U.S.", "us"),
        ("3.5", "3.5"),
        ("5.", "5"),  # the look-behind that would spare it is misspelt
        ("$.50", "$.50"),
        ("1,000", "1000"),
        ("1,000-2", "10002"),  # a comma between digits removes every mark without a space
        ("a-b", "b"),  # the mark becomes a space, then the article goes
        ("red-blue", "red blue"),
        ("red -blue", "red blue"),
        ("red - blue-green", "red bluegreen"),  # the mark touches a space somewhere, so it leaves none anywhere
        ("10:30", "10:30"),
        ("cat's", "cat's"),
        ("  line\nbreak\ttab ", "line break tab"),
        ("yes!", "yes"),
        ("one, two", "1 2"),
    ],
)
def test_the_rules_of_the_vqa_evaluation(text, expected):
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dog's", "dog 's"),
        ("1,000", "1000"),
        ("red, blue", "red blue"),
        ("red,blue", "redblue"),  # the evaluation of VQA makes two words of it
        ("What?", "what"),
        ("The Two-Way.", "2 way"),
        ("thats", "that's"),
        ("", ""),
    ],
)
def test_the_rules_of_the_textvqa_evaluator(text, expected):
    assert normalize_m4c(text) == expected == EvalAIAnswerProcessor()(text)


def test_the_published_code_removes_32_periods_and_no_more():
    assert normalize("." * 40) == "." * 8


def test_the_tables_are_those_published():
    assert len(CONTRACTIONS) == 114 and len(NUMBERS) == 12 and len(PUNCTUATION) == 21
    # Compared once, word by word, with the table in vqaEval.py; words that no lower-cased text has are left out.
    digest = hashlib.sha256(json.dumps(sorted(CONTRACTIONS.items())).encode()).hexdigest()
    assert digest[:16] == "853d25c89947b7f6"


@pytest.mark.parametrize(("matches", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_ten_people_leaving_one_out(matches, expected):
    people = ["cat"] * matches + ["dog"] * (10 - matches)
    assert accuracy("cat", people) == pytest.approx(expected)


def test_people_who_agree_are_compared_as_they_stand():
    assert vqa_accuracy("The cat.", ["cat"] * 10) == 0
    assert vqa_accuracy("The cat.", ["cat"] * 9 + ["a cat"]) == 1
    assert vqa_accuracy("cat ", ["cat\n"] * 10) == 1


def test_the_mean_that_llava_prints():
    predictions = [
        {"pred_answer": "The Cat", "gt_answers": ["cat"] * 2 + ["dog"] * 8},
        {"pred_answer": "", "gt_answers": ["cat"] * 10},
    ]
    assert TextVQAAccuracyEvaluator().eval_pred_list(predictions) == pytest.approx(0.3)


@given(st.text(alphabet=st.sampled_from("abT1290.,;:-'!?()[] \n\té\u0661"), max_size=30))
def test_normalising_twice_changes_nothing(text):
    once = normalize(text)
    assert normalize(once) == once


@given(st.text(max_size=40))
def test_no_article_number_word_mark_or_capital_is_left(text):
    for form in (normalize(text), normalize_m4c(text)):
        words = form.split()
        assert form == " ".join(words) and form == form.lower()
        assert not set(words) & {*ARTICLES, *NUMBERS} and not set(form) & set(PUNCTUATION)


@given(st.sampled_from("abc"), st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_accuracy_is_the_mean_over_leaving_each_person_out(answer, people):
    by_definition = [
        min(1, sum(other == answer for m, other in enumerate(people) if m != n) / 3) for n in range(len(people))
    ]
    assert accuracy(answer, people) == pytest.approx(sum(by_definition) / len(people))
    assert 0 <= accuracy(answer, people) <= 1
