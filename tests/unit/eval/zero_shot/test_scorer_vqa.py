"""VQAv2, VizWiz, TextVQA and GQA: hand-computed scores and the odd cases."""

import pytest

from eval.zero_shot import gqa, textvqa, vizwiz, vqav2
from eval.zero_shot.answers import AnswerLine, by_id, numbered
from visatb.errors import InputError


def people(*texts):
    """Ten people's answers: the given ones, filled up with `other`."""
    return [{"answer": text, "answer_id": n} for n, text in enumerate([*texts, *["other"] * 10][:10], 1)]


@pytest.fixture
def vqa_annotations():
    return by_id(
        numbered(
            [
                {"question_id": 1, "question_type": "what", "answer_type": "other", "answers": people("red", "red")},
                {"question_id": 2, "question_type": "is", "answer_type": "yes/no", "answers": people(*["yes"] * 10)},
                {"question_id": 3, "question_type": "how many", "answer_type": "number", "answers": people(*["2"] * 9)},
            ],
            "val.json",
        )
    )


def test_vqav2_by_hand(answers, vqa_annotations):
    found = vqav2.score(answers((3, "Two."), (1, "the red"), (2, "Yes")), vqa_annotations, "val.json")
    assert found["metric"] == "vqa_accuracy" and found["n"] == 3
    assert found["score"] == pytest.approx(100 * (0.6 + 1 + 1) / 3)
    assert found["details"]["answer_type"] == pytest.approx({"number": 100, "other": 60, "yes/no": 100})
    assert found["details"]["question_type"]["what"] == pytest.approx(60)
    assert [one["question_id"] for one in found["per_record"]] == [1, 2, 3]


def test_an_empty_answer_is_wrong_and_counted(answers, vqa_annotations):
    found = vqav2.score(answers((1, ""), (2, "yes"), (3, "2")), vqa_annotations, "val.json")
    assert found["malformed"] == 1 and found["per_record"][0]["score"] == 0
    assert "1 of 3 answers cannot be read" in found["notes"][0]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(1, "a"), (2, "b")], r"answers.jsonl: lacks 1 of 3 questions of val.json \(first: '3'\)"),
        ([(1, "a"), (2, "b"), (3, "c"), (1, "d")], "answers.jsonl line 4: question_id 1 is answered twice"),
        ([(1, "a"), (2, "b"), (3, "c"), (9, "d")], "line 4: question_id 9 is no question of val.json"),
    ],
)
def test_answers_are_exactly_the_questions(answers, vqa_annotations, pairs, message):
    with pytest.raises(InputError, match=message):
        vqav2.score(answers(*pairs), vqa_annotations, "val.json")


def test_ids_may_be_numbers_here_and_text_there(answers, vqa_annotations):
    assert vqav2.score(answers(("1", "a"), ("2", "b"), ("3", "c")), vqa_annotations, "val.json")["n"] == 3


def test_vizwiz_compares_with_people_as_they_stand(answers):
    questions = {"0": {"question_id": 0, "image": "a.jpg"}, "1": {"question_id": 1, "image": "b.jpg"}}
    annotations = {
        "a.jpg": {"answers": people(*["basil"] * 3, *["Basil"] * 3), "answer_type": "other"},
        "b.jpg": {"answers": people(*["unanswerable"] * 10), "answer_type": "unanswerable"},
    }
    found = vizwiz.score(answers((0, "Basil."), (1, "Unanswerable")), questions, annotations, "q.jsonl")
    assert found["score"] == pytest.approx(100 * (0.9 + 1) / 2)
    assert found["details"]["answer_type"] == pytest.approx({"other": 90, "unanswerable": 100})
    with pytest.raises(InputError, match="'b.jpg' has no annotation"):
        vizwiz.score(answers((0, "x"), (1, "y")), questions, {"a.jpg": annotations["a.jpg"]}, "q.jsonl")


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        ("What Brand?\nAnswer shortly.", "what brand?"),
        ("What?\nReference OCR token: A, B\nAnswer shortly.", "what?"),
        ("Reference OCR token: A, B\nWhat?\nAnswer shortly.", "what?"),
        ("OCR tokens: A, B. Question: What is\nit? Short answer:", "what is\nit?"),
    ],
)
def test_textvqa_reads_the_question_out_of_every_prompt_of_llava(prompt, question):
    assert textvqa.question_of(AnswerLine("i", "t", prompt, "here")) == question


@pytest.mark.parametrize("prompt", ["", "What?", "OCR tokens: A. What?", "one\ntwo\nthree", "1\n2\n3\n4"])
def test_textvqa_refuses_other_prompts(prompt):
    with pytest.raises(InputError, match="prompt must be a question"):
        textvqa.question_of(AnswerLine("i", "t", prompt, "here"))


def test_textvqa_by_hand_with_two_questions_about_one_image(answers):
    annotations = [
        (("img", "what brand?"), ["dakota"] * 2 + ["nikon"] * 8),
        (("img", "what year?"), ["2012"] * 10),
        (("img", "what year?"), ["2013"] * 10),  # as LLaVA does, the last of two equal keys serves both
    ]
    ask = "{}\nAnswer the question using a single word or phrase."
    given = answers(
        ("img", "2013", ask.format("What year?")),
        ("img", "Dakota", ask.format("What Brand?")),
        ("img", "2012", ask.format("What year?")),
    )
    found = textvqa.score(given, annotations, "val.json")
    assert found["score"] == pytest.approx(100 * (0.6 + 1 + 0) / 3)
    assert found["summary"] == "Samples: 3\nAccuracy: 53.33%"
    with pytest.raises(InputError, match="1 of 2 questions"):
        textvqa.score(answers(("img", "x", ask.format("What year?"))), annotations[:2], "val.json")


def test_textvqa_wants_ten_people(bench):
    record = {"image_id": "i", "question": "Q?", "answers": ["a"] * 9}
    with pytest.raises(InputError, match="record 0: answers must be 10 texts"):
        textvqa.read_annotations(bench.json("val.json", {"data": [record]}))


@pytest.fixture
def gqa_questions():
    def question(answer, structural, semantic, balanced=True):
        types = {"structural": structural, "semantic": semantic}
        return {"question": "?", "answer": answer, "isBalanced": balanced, "types": types}

    return {
        "1": question("yes", "verify", "obj"),
        "2": question("no", "logical", "obj"),
        "3": question("table", "query", "attr"),
        "4": question("chair", "query", "obj", balanced=False),
    }


def test_gqa_by_hand(answers, gqa_questions):
    found = gqa.score(answers(("1", "Yes."), ("2", "yes"), ("3", "Table")), gqa_questions, "q.json")
    assert found["score"] == pytest.approx(200 / 3)
    assert found["details"]["kind"] == {"binary": 50, "open": 100}
    assert found["details"]["structural"] == {"logical": 0, "query": 100, "verify": 100}
    assert found["details"]["semantic"] == {"attr": 100, "obj": 50}


def test_gqa_compares_letter_by_letter(answers, gqa_questions):
    found = gqa.score(answers(("1", " yes"), ("2", ""), ("3", "a table")), gqa_questions, "q.json")
    assert found["score"] == 0 and found["malformed"] == 1


def test_gqa_looks_at_balanced_questions_only(answers, gqa_questions):
    everything = answers(("1", "yes"), ("2", "no"), ("3", "table"), ("4", "wrong"))
    assert gqa.score(everything, gqa_questions, "q.json")["score"] == 100
    with pytest.raises(InputError, match="1 of 3 questions"):
        gqa.score(answers(("1", "yes"), ("3", "table"), ("4", "chair")), gqa_questions, "q.json")
    with pytest.raises(InputError, match="no balanced question"):
        gqa.score(answers(("4", "chair")), gqa_questions, "q.json")


def test_gqa_works_without_types(answers):
    found = gqa.score(answers((7, "cat")), {"7": {"answer": "cat"}}, "q.json")
    assert found["score"] == 100 and found["details"] == {"kind": {}, "structural": {}, "semantic": {}}
