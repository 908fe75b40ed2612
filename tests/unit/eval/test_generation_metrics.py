"""GLEU and BLEU against their definitions, counted by hand."""

import math
import warnings
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import bleu, gleu
from eval.answers import Answer
from visatb.errors import InputError

WORDS = st.lists(st.sampled_from("abcd"), max_size=8).map(" ".join)
TEXT = st.lists(st.sampled_from("abcd"), min_size=1, max_size=8).map(" ".join)


def answers(*pairs):
    return [Answer(n, n, f"answers.json: record {n}", truth, said) for n, (truth, said) in enumerate(pairs)]


def ngrams(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def gleu_by_hand(truth, said):
    a, b = (sum((ngrams(text.split(), n) for n in range(1, 5)), Counter()) for text in (truth, said))
    return sum((a & b).values()) / max(sum(a.values()), sum(b.values()))


@settings(max_examples=60, deadline=None)
@given(TEXT, WORDS)
def test_gleu_is_the_lesser_of_precision_and_recall_of_all_ngrams(truth, said):
    assert gleu.score(answers((truth, said)))["score"] == pytest.approx(gleu_by_hand(truth, said))


def test_gleu_is_the_mean_of_best_references_and_missing_answers_count_0():
    found = gleu.score(answers(("a b c", "a b c"), (["x y", "a b"], "a b"), ("a", None)))
    assert found["score"] == pytest.approx(2 / 3) and found["malformed"] == 1 and found["metric"] == "GLEU"


def bleu_by_hand(pairs):
    logs, lengths = 0.0, [sum(len(text.split()) for text in side) for side in zip(*pairs, strict=True)]
    for n in range(1, 5):
        hits = sum(sum((ngrams(a.split(), n) & ngrams(b.split(), n)).values()) for a, b in pairs)
        total = sum(sum(ngrams(b.split(), n).values()) for _, b in pairs)
        if not hits:
            return 0.0
        logs += math.log(hits / total) / 4
    return math.exp(logs) * min(1.0, math.exp(1 - lengths[0] / lengths[1]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, WORDS), min_size=1, max_size=4))
def test_bleu_is_that_of_the_whole_file_with_brevity_penalty(pairs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bleu.score(answers(*pairs))
    assert found["score"] == pytest.approx(bleu_by_hand(pairs))
    assert all(0 <= entry["score"] <= 1 + 1e-9 for entry in found["per_record"])


@pytest.mark.parametrize("metric", [bleu, gleu])
@pytest.mark.parametrize("truth", ["", " ", [], [""], 3, None, ["a", 3]])
def test_a_truth_that_is_no_text_is_refused_by_record(metric, truth):
    with pytest.raises(InputError, match="record 0.*conversations"):
        metric.score(answers((truth, "a")))


def test_bleu_says_that_a_side_without_four_words_makes_it_0():
    short = bleu.score(answers(("a b c", "a b c"), (["a", "b c"], "a b c d")))
    assert short["score"] == 0 and "no reference has 4 words" in short["notes"][0]
    assert "no prediction has 4 words" in bleu.score(answers(("a b c d", "a b"), ("a b c d", None)))["notes"][0]
    assert not bleu.score(answers(("a b c d", "a b c d")))["notes"]
