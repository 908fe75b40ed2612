"""The sentences of the report: what a run found, and how sure of it one can be."""

import copy

from report_example import synthetic_data

from scripts_visatb.workflow.findings import overall_sentences, seed_sentence, weight_sentence
from scripts_visatb.workflow.report_data import overall


def test_report_says_plainly_when_visatb_is_worse():
    data = synthetic_data()
    for row in data["test"]:
        row["EW"], row["VisATB"], row["difference"] = row["VisATB"], row["EW"], -row["difference"]
    data["overall"] = overall(data["test"])
    data["overall_spread"]["models"]["VisATB"]["gap"] = [-6.1, -3.9]
    sentences = overall_sentences(data)
    assert "VisATB did not help in this run: it is behind equal weights by 5.00 points" in sentences[0]
    assert sentences[0].endswith("the 95% interval of the difference is -6.10 .. -3.90.")
    assert "higher than equal weights on 0 of 5 tasks and lower on 5" in sentences[-1]
    assert "clearly worse on SceneCaption" in sentences[-1] and "better" not in sentences[-1]


def test_report_says_in_which_direction_clear_differences_go():
    data = synthetic_data()
    for row, difference in zip(data["test"], (0.05, -0.21, 0.03, -0.001, 0.2), strict=True):
        row["difference"] = difference
    sentences = overall_sentences(data)
    assert sentences[0].startswith("VisATB is ahead of equal weights by 5.00 points")
    assert "on 3 of 5 tasks and lower on 2" in sentences[-1]
    assert "clearly better on SceneCaption, Grounding, clearly worse on RegionCaption (by more" in sentences[-1]
    assert sentences[-1].endswith("on the others the difference may be chance.")
    for row in data["test"]:
        row["standard_error"] = 1.0
    assert "each may be chance" in overall_sentences(data)[-1]


def test_a_gap_whose_interval_contains_0_is_said_to_be_chance():
    data = synthetic_data()
    data["overall_spread"]["models"]["VisATB"]["gap"] = [-0.2, 10.2]
    assert "-0.20 .. +10.20, which contains 0: it may be chance" in overall_sentences(data)[0]
    data["overall_spread"] = {"about": "no intervals: bootstrap is 0", "models": {}}
    assert "interval" not in overall_sentences(data)[0]


def test_seed_sentence_separates_one_seed_holding_and_changing():
    data = synthetic_data()
    assert "Only one seed (0)" in seed_sentence(data)
    order = data["seed_order"]
    order["rows"].append(copy.deepcopy(order["rows"][0]) | {"seed": 1})
    assert seed_sentence(data).startswith("The order holds over the seeds 0, 1")
    order["rows"][1]["lowest"] = "Grounding"
    order["lowest_holds"] = False
    sentence = seed_sentence(data)
    assert sentence.startswith("The order does not hold")
    assert "lowest weight CHANGES: RegionCaption with seed 0, Grounding with seed 1" in sentence


def test_weights_are_ranked_only_as_far_as_their_intervals_allow():
    data = synthetic_data()
    weighting = data["weighting"]
    # by part: SceneCaption 1.025, RegionCaption 0.9, ShapeVQA 1.0125, TextChartQA 1.0, Grounding 1.0625
    assert weight_sentence(data).startswith("No weight can be distinguished from another: Grounding got the highest")
    above = weighting["spread"]["low"]["weight_difference"]
    for n in (0, 2, 4):
        above[n][1] = 0.01
    assert weight_sentence(data) == (
        "Grounding got the highest weight (1.06), not distinguishable from SceneCaption, ShapeVQA, TextChartQA; "
        "RegionCaption got the lowest weight (0.90), not distinguishable from TextChartQA. 1 would be an equal share."
    )
    above[4] = [0.01, 0.01, 0.01, 0.01, 0.0]
    assert "highest weight (1.06); RegionCaption" in weight_sentence(data)
    weighting["spread"] = None
    assert weight_sentence(data).endswith("Without intervals this order may be chance.")
