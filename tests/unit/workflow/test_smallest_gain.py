"""The smallest gain that a validation set can distinguish from 0: by simulation, in the table, from a run's scores."""

import json

import numpy as np
import pytest

from scripts_visatb.smallest_gain import (
    assumed_gain,
    describe_gains,
    gains_of,
    measured_gain,
    paired_deviation,
    smallest_gain,
)
from scripts_visatb.workflow import cost as show
from scripts_visatb.workflow.places import Run
from tests.unit.workflow.test_benchmark_show import load, write_mix
from visatb.benchmark import Task


def pairs(draw, gain, worlds=4000, records=400):
    """Differences [worlds, records] of two models' hits at 50 %, whose correlation is 0.5."""
    luck = draw.random((worlds, records))
    other = np.where(draw.random((worlds, records)) < 0.5, luck, draw.random((worlds, records)))
    return (other < 0.5 + gain).astype(float) - (luck < 0.5)


def test_chance_alone_reaches_the_smallest_gain_in_one_of_twenty_worlds():
    difference = pairs(np.random.default_rng(0), 0.0)
    smallest = assumed_gain(Task("A", "exact_match", {}), 400).smallest
    assert smallest == pytest.approx(1.959964 * 0.5 / 20)
    assert 0.04 < (np.abs(difference.mean(axis=1)) > smallest).mean() < 0.06


def test_a_gain_of_the_named_factor_is_found_in_four_of_five_worlds():
    found = [assumed_gain(Task("A", "exact_match", {}), 400)]
    assert "80% of runs, a gain must be 1.43 times as large" in describe_gains(found)[0]
    difference = pairs(np.random.default_rng(1), 1.43 * found[0].smallest)
    assert 0.76 < (difference.mean(axis=1) > found[0].smallest).mean() < 0.84


def test_a_gain_shrinks_with_the_root_of_the_records_and_with_correlation():
    assert smallest_gain(1.0, 400) == pytest.approx(smallest_gain(1.0, 100) / 2)
    assert paired_deviation(1.0, 0.0) == pytest.approx(2**0.5) and paired_deviation(1.0, 1.0) == 0


def test_gains_of_unlimited_scores_are_shares_and_those_of_bleu_unknown(repository):
    chat = gains_of(load(repository, "chat"), {"conversation": 30}, repository / "nowhere")
    assert [gain.task for gain in chat] == ["conversation"] and chat[0].relative
    lines = describe_gains([*chat, assumed_gain(Task("B", "bleu", {}), 9)])
    assert "17.9% of the score" in lines[1] and "unknown" in lines[1]
    assert describe_gains([]) == []


def test_the_gain_follows_from_what_a_new_metric_declares(monkeypatch):
    from eval.registry import Metric
    from scripts_visatb import smallest_gain as module

    for properties, expected, relative in (
        ({}, 0.098, False),  # 1.96 x 0.5 / sqrt(100)
        ({"range": (-1.0, 1.0)}, 0.196, False),
        ({"range": (0.0, 10.0), "deviation": 2.0}, 0.392, True),
        ({"range": (0.0, float("inf"))}, None, False),
    ):
        monkeypatch.setattr(module, "find_metric", lambda name, more=properties: Metric(name, name, len, **more))
        gain = assumed_gain(Task("A", "token_recall", {}), 100)
        assert gain.smallest == (expected and pytest.approx(expected, abs=1e-4)) and gain.relative == relative


def test_a_run_gives_the_level_and_the_gain_of_its_own_scores(tmp_path):
    mix = write_mix(tmp_path, {"A": 40, "B": 80})
    shown = show.describe(mix, 0, None, None, tmp_path / "runs").splitlines()
    assert ["A", "40", "assumed", "0.1549"] in map(str.split, shown)
    current = Run(mix, tmp_path / "runs/mix", 0)
    hits = {"mini": [1, 0, 0, 0] * 25, "A-plus-mini": [1, 1, 0, 0] * 25}
    for model, scores in hits.items():
        file = current.metric_file(model, "val", "A").with_suffix(".per_record.jsonl")
        file.parent.mkdir(parents=True)
        lines = [json.dumps({"position": n, "score": score}) for n, score in enumerate(scores)]
        file.write_text("\n".join(lines if model == "mini" else reversed(lines)))
    found = {gain.task: gain for gain in gains_of(mix, {"A": 40, "B": 80}, tmp_path / "runs")}
    expected = measured_gain("A", hits["mini"], hits["A-plus-mini"])
    assert found["A"] == expected and found["B"].level is None
    assert (expected.level, expected.measured) == (0.25, 0.25)
    assert expected.smallest == pytest.approx(1.959964 * np.std([0, 1, 0, 0] * 25, ddof=1) / 10)
    shown = show.describe(mix, 0, None, None, tmp_path / "runs")
    assert "measured +0.2500: distinguishable from 0" in shown and "assumed: accuracies" in shown


def test_a_validation_set_of_unknown_size_is_said_and_the_rest_is_shown(tmp_path):
    write_mix(tmp_path, {"A": 9, "B": 9})
    (tmp_path / "B.json").rename(tmp_path / "B-9.json")
    text = (tmp_path / "mix.yaml").read_text().replace("train: B.json", "train: B-9.json")
    (tmp_path / "mix.yaml").write_text(text)
    shown = show.describe(show.load_benchmark(tmp_path / "mix.yaml"), 0, None, None)
    assert "distinguish from 0: unknown, " in shown and "B.json" in shown and "guidance not met" in shown
