"""The evaluators against the recorded scores of the reference: equal to 1e-9, in total and per record.

CIDEr's last bit differs between processors, so that nothing here is compared more closely.

Ours differ where the reference's behaviour is a defect, and the tests say so: repeated ids, a single record, a truth
that holds no box, and predictions that end its evaluation.
"""

import json

import pytest

from eval import caption, caption_list, grounding, qa
from eval.answers import read_answers
from visatb.errors import InputError

SCORERS = {"eval/caption.py": caption.score, "eval/caption_list.py": caption_list.score, "eval/qa.py": qa.score}
SCORED = ("caption", "caption_integer_ids", "caption_perfect", "caption_empty_predictions", "caption_list", "qa")


@pytest.fixture(scope="module")
def expected(golden):
    return json.loads((golden / "eval" / "expected.json").read_text(encoding="utf-8"))


def per_id(scores):
    return {str(entry["id"]): entry["score"] for entry in scores["per_record"]}


def close(value):
    return pytest.approx(value, rel=1e-9, abs=1e-9)


def printed(line):
    """What is printed beside the score, and the score, the last word of the line."""
    text, _, score = line.strip().rpartition(" ")
    return text, close(float(score))


@pytest.mark.golden
@pytest.mark.parametrize("name", SCORED)
def test_scores_are_those_of_the_reference(golden, expected, name):
    recorded = expected[f"{name}.json"]
    scores = SCORERS[recorded["script"]](read_answers(golden / "eval" / f"{name}.json").answers)
    assert scores["score"] == close(recorded["value"])
    text, value = scores["summary"].rpartition(" ")[::2]
    assert (text, float(value)) == printed(recorded["stdout"])
    assert per_id(scores) == close({key: float(value) for key, value in recorded["per_id"].items()})
    assert scores["malformed"] == 0


@pytest.mark.golden
def test_boxes_are_judged_as_by_the_reference(golden, expected):
    """All 53, the odd numbers (nan, inf, 1_0, full-width digits) and swapped corners included."""
    recorded = expected["grounding.json"]
    scores = grounding.score(read_answers(golden / "eval" / "grounding.json").answers, broken_truth="miss")
    assert per_id(scores) == recorded["per_id"]
    assert scores["summary"] + "\n" == recorded["stdout"]


@pytest.mark.golden
def test_a_broken_true_box_is_refused_where_the_reference_counts_a_miss(golden):
    answers = read_answers(golden / "eval" / "grounding.json").answers
    broken = []
    for answer in answers:
        try:
            grounding.score([answer])
        except InputError:
            broken.append(answer.truth)
    empty = ["[0.2, 0.2, 0.2, 0.2]"] * 2 + ["no box in the truth"] * 2 + ["[0.6, 0.8, 0.2, 0.3]"]
    outside = ["[0.0, 0.0, 4.0, 2.0]", "[200, 300, 600, 800]"]
    assert sorted(broken) == sorted(empty + outside)
    with pytest.raises(InputError, match="record "):
        grounding.score(answers)


@pytest.mark.golden
def test_predictions_that_crash_the_reference_are_wrong_and_counted(golden):
    """Of these 20, two have a broken truth, which is a data error."""
    answers = read_answers(golden / "eval" / "grounding_malformed.json").answers
    whole = [answer for answer in answers if answer.truth == "[0.2, 0.3, 0.6, 0.8]"]
    scores = grounding.score(whole)
    assert (scores["n"], scores["malformed"], scores["score"]) == (18, 18, 0.0)
    with pytest.raises(InputError, match=r"'\[0.2, 0.3, 0.6\]'"):
        grounding.score(answers)


@pytest.mark.golden
def test_repeated_ids_are_refused_where_the_reference_loses_answers(golden, expected):
    path = golden / "eval" / "caption_duplicate_ids.json"
    with pytest.raises(InputError, match="id occurs already"):
        read_answers(path)
    scores = caption.score(read_answers(path, key_by_position=True).answers)
    assert (scores["n"], expected[path.name]["n_distinct_ids"]) == (36, 30)
    assert scores["score"] != expected[path.name]["value"]


@pytest.mark.golden
def test_one_caption_is_refused_where_the_reference_gives_zero(golden, expected):
    assert expected["caption_one_answer.json"]["value"] == 0.0
    with pytest.raises(InputError, match="only record"):
        caption.score(read_answers(golden / "eval" / "caption_one_answer.json").answers)


@pytest.mark.golden
@pytest.mark.parametrize("name", ["caption_list_empty_reference_list", "caption_list_string_reference"])
def test_bad_references_are_refused_where_the_reference_crashes(golden, expected, name):
    assert expected[f"{name}.json"]["exit_status"] == 1
    with pytest.raises(InputError, match=r"record 4 .*conversations\[1\].value"):
        caption_list.score(read_answers(golden / "eval" / f"{name}.json").answers)


@pytest.mark.golden
@pytest.mark.parametrize("name", ["caption_empty_file", "grounding_empty_file", "qa_empty_file"])
def test_an_empty_file_is_refused_where_the_reference_crashes(golden, expected, name):
    assert expected[f"{name}.json"]["exit_status"] == 1
    with pytest.raises(InputError, match="has no records"):
        read_answers(golden / "eval" / f"{name}.json")


@pytest.mark.golden
def test_answers_of_the_references_inference_match_their_questions(golden):
    answers = read_answers(golden / "inference" / "my-questions_llava-tiny.json")
    asked = golden / "inference" / "my_questions.json"
    assert len(read_answers(answers.path, asked).answers) == len(answers.answers)
