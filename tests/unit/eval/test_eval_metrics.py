"""The four metrics on small cases that anyone can check by hand."""

import numpy as np
import pytest

from eval import caption, caption_list, grounding, grounding_bbox, qa
from eval.answers import Answer
from visatb.errors import InputError


def answers(*pairs):
    return [Answer(n, n, f"answers.json: record {n}", truth, said) for n, (truth, said) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("truth", "said", "hit"),
    [
        ("Two", " two.\n", True),
        ("two.", "two", True),
        ("two", "two..", False),
        ("two", "two .", False),
        ("", ".", True),
        ("two", None, False),
        ("", None, False),
    ],
)
def test_exact_match_drops_case_outer_space_and_one_period(truth, said, hit):
    scores = qa.score(answers((truth, said)))
    assert scores["score"] == float(hit)
    assert scores["malformed"] == (said is None)


@pytest.mark.parametrize("truth", [None, 2, ["two"], {}])
def test_exact_match_refuses_a_truth_that_is_no_text(truth):
    with pytest.raises(InputError, match=r"record 1: conversations\[1\].value must be text"):
        qa.score(answers(("two", "two"), (truth, "two")))


def test_the_summary_counts_hits():
    scores = qa.score(answers(("a", "a"), ("b", "c"), ("d", "d")))
    assert scores["summary"] == "2 / 3 = 0.6666666666666666"
    assert [entry["score"] for entry in scores["per_record"]] == [1.0, 0.0, 1.0]


def test_overlap_of_boxes_is_shapelys():
    from shapely.geometry import box

    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = ((*corners[0], *corners[1]) for corners in np.sort(rng.random((2, 2, 2)), axis=1))
        one, other = box(*a), box(*b)
        assert grounding.box_iou(a, b) == pytest.approx(one.intersection(other).area / one.union(other).area, abs=1e-5)


def test_cider_rewards_the_right_caption():
    scores = caption.score(answers(("a red ring", "a red ring"), ("two blue stars", "one green line")))
    assert scores["per_record"][0]["score"] > 5
    assert scores["per_record"][1]["score"] == 0.0
    assert scores["summary"] == f"CIDEr:  {scores['score']}"


def test_cider_keeps_records_with_equal_ids_apart():
    pairs = answers(("a red ring", "a red ring"), ("two blue stars", "two blue stars"), ("a green line here", "no"))
    same_id = [Answer(a.position, "same", a.where, a.truth, a.prediction) for a in pairs]
    assert caption.score(same_id)["score"] == caption.score(pairs)["score"]


def test_cider_counts_a_malformed_prediction_as_zero():
    scores = caption.score(answers(("a red ring", None), ("two blue stars", "two blue stars")))
    assert scores["malformed"] == 1
    assert scores["per_record"][0]["score"] == 0.0


def test_cider_of_one_record_is_refused():
    with pytest.raises(InputError, match="only record"):
        caption.score(answers(("a red ring", "a red ring")))
    with pytest.raises(InputError, match="only record"):
        caption_list.score(answers((["a red ring"], "a red ring")))


def test_cider_says_that_equal_references_make_it_0():
    same = answers(("a red ring", "a red ring"), ("a  red ring", "two stars"))
    assert caption.score(same)["score"] == 0
    assert "CIDEr is 0 whatever is predicted" in caption.score(same)["notes"][0]
    listed = answers((["a ring", "one ring"], "a ring"), (["one ring", "a ring", "a ring"], "x"))
    assert caption_list.score(listed)["score"] == 0 and caption_list.score(listed)["notes"]
    assert not caption.score(answers(("a red ring", "x"), ("a blue ring", "x")))["notes"]


@pytest.mark.parametrize("truth", [None, 3, "", "  ", {}])
def test_a_caption_that_is_no_text_is_refused(truth):
    with pytest.raises(InputError, match="record 1"):
        caption.score(answers(("a", "a"), (truth, "a")))


def test_a_list_of_references_is_sent_to_caption_list():
    with pytest.raises(InputError, match="eval/caption_list.py"):
        caption.score(answers((["a"], "a"), (["b"], "b")))


def test_one_reference_is_sent_to_caption():
    with pytest.raises(InputError, match="eval/caption.py"):
        caption_list.score(answers((["a"], "a"), ("b", "b")))


@pytest.mark.parametrize("truth", [[], [""], [" ", "\n"], [1], ["a", None], None, {}])
def test_a_reference_list_without_a_reference_is_refused(truth):
    with pytest.raises(InputError, match="record 1"):
        caption_list.score(answers((["a"], "a"), (truth, "a")))


def test_one_reference_in_a_list_scores_as_a_single_one():
    pairs = [("a red ring", "a red line"), ("two blue stars", "two blue stars"), ("no ring", "ring no")]
    single = caption.score(answers(*pairs))
    listed = caption_list.score(answers(*(([truth], said) for truth, said in pairs)))
    assert single["score"] == listed["score"]


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[0.1, 0.2, 0.3, 0.4]", (0.1, 0.2, 0.3, 0.4)),
        ("it is [.1,2e-1, 0.3 , +0.4] or [1, 1, 2, 2]", (0.1, 0.2, 0.3, 0.4)),
        ("[[0.1, 0.2, 0.3, 0.4]]", (0.1, 0.2, 0.3, 0.4)),
        ("[0.1, 0.2,\n0.3, 0.4]", None),
        ("[0.1, 0.2, 0.3]", None),
        ("[0.1, 0.2, 0.3, 0.4, 0.5]", None),
        ("[0.1, 0.2, 0.3, nan]", None),
        ("[0.1, 0.2, 0.3, inf]", None),
        ("[10%, 20%, 30%, 40%]", None),
        ("[a] [0.1, 0.2, 0.3, 0.4]", None),
        ("[[0.1, 0.2], [0.3, 0.4]]", None),
        ("no box", None),
        ("", None),
    ],
)
def test_the_first_bracket_holds_the_box(text, box):
    assert grounding.read_box(text) == box


def test_half_an_overlap_is_a_miss_and_a_little_more_a_hit():
    assert grounding.box_iou((0, 0, 1, 1), (0, 0, 0.5, 1)) == 0.5
    scores = grounding.score(answers(("[0, 0, 1, 1]", "[0, 0, 0.5, 1]"), ("[0, 0, 1, 1]", "[0, 0, 0.51, 1]")))
    assert [entry["score"] for entry in scores["per_record"]] == [0.0, 1.0]


@pytest.mark.parametrize(
    "box", [(0.6, 0.8, 0.2, 0.3), (0.6, 0.3, 0.2, 0.8), (0.3, 0.3, 0.3, 0.3), (1e300, 0, 1e301, 1)]
)
def test_a_box_with_swapped_corners_no_area_or_huge_numbers_meets_nothing(box):
    assert grounding.box_iou((0.2, 0.3, 0.6, 0.8), box) == 0.0


@pytest.mark.parametrize("said", ["nothing", "[]", "[0.1]", "[x1=0.2, y1=0.3, x2=0.6, y2=0.8]", None])
def test_an_odd_prediction_is_a_miss_and_does_not_end_the_evaluation(said):
    scores = grounding.score(answers(("[0, 0, 1, 1]", said), ("[0, 0, 1, 1]", "[0, 0, 1, 1]")))
    assert (scores["summary"], scores["malformed"]) == ("1 / 2 = 0.5", 1)


@pytest.mark.parametrize("truth", ["nothing", "[]", "[0.1, 0.2, 0.3]", "[0.2, 0.2, 0.2, 0.4]", "[0.6, 0.8, 0.2, 0.3]"])
def test_a_broken_true_box_is_refused_or_counted_as_a_miss_on_request(truth):
    pairs = answers(("[0, 0, 1, 1]", "[0, 0, 1, 1]"), (truth, truth))
    with pytest.raises(InputError, match=r"record 1: conversations\[1\].value must hold a box.*--broken-truth miss"):
        grounding.score(pairs)
    assert grounding.score(pairs, broken_truth="miss")["summary"] == "1 / 2 = 0.5"


@pytest.mark.parametrize("truth", ["[12, 30, 200, 150]", "[0.1, 0.2, 0.3, 1.5]", "[-0.1, 0, 1, 1]"])
def test_a_true_box_in_pixels_is_a_data_error_and_not_a_miss(truth):
    pairs = answers(("[0, 0, 1, 1]", "[0, 0, 1, 1]"), (truth, truth))
    with pytest.raises(InputError, match=r"record 1: conversations\[1\].value must hold a box within \[0, 1\].*--from"):
        grounding.score(pairs)
    assert grounding.score(pairs, broken_truth="miss")["score"] == 1  # compared as it stands


def test_predicted_boxes_in_pixels_are_counted_in_a_note():
    scores = grounding.score(answers(("[0, 0, 1, 1]", "[12, 30, 200, 150]"), ("[0, 0, 1, 1]", "[0, 0, 1, 1]")))
    assert (scores["score"], scores["malformed"]) == (0.5, 0)
    assert scores["notes"] == ["1 of 2 predicted boxes lie outside [0, 1], as pixels do"]


@pytest.mark.parametrize("truth", [None, [0, 0, 1, 1], 3])
@pytest.mark.parametrize("broken_truth", ["fail", "miss"])
def test_a_true_box_that_is_no_text_is_always_refused(truth, broken_truth):
    with pytest.raises(InputError, match="record 0"):
        grounding.score(answers((truth, "[0, 0, 1, 1]")), broken_truth)


def test_both_names_of_the_grounding_script_are_one():
    assert grounding_bbox.score is grounding.score
    assert grounding_bbox.main is grounding.main
