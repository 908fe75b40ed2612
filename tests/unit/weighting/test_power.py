"""--power: the records and runs that narrower intervals would take, checked against what happens with as many."""

import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import weighting_visatb as w
from visatb.weighting.matrix import ScoreMatrix, mean_matrix
from visatb.weighting.power import fewest_records, format_power, power_of_records, power_of_runs
from visatb.weighting.uncertainty import bootstrap, spread_of_runs, weigh_alike

TASKS = ("A", "B", "C")
SCORE = np.array([[0.30, 0.35, 0.40], [0.60, 0.38, 0.42], [0.33, 0.70, 0.44], [0.30, 0.36, 0.80]])


def drawn(records_J, seed=0):
    """Answers of four models whose means are nearly SCORE: float64 [4, R] for each task, and their matrix."""
    draw = np.random.default_rng(seed)
    scores = [
        (draw.permuted(np.arange(records) / records)[None] < SCORE[:, [j]]) * 1.0 for j, records in enumerate(records_J)
    ]
    means = np.stack([score.mean(axis=1) for score in scores], axis=1)
    return scores, ScoreMatrix("scores.csv", TASKS, TASKS, np.arange(3), means[0], means[1:])


def estimate(records_J, resamples=500):
    scores, matrix = drawn(records_J)
    weighting = w.weigh(matrix)
    weigh = weigh_alike(matrix, weighting, "fail", 0.0)
    spread = bootstrap(matrix, scores, weigh, resamples)
    return power_of_records(matrix, scores, weigh, weighting, spread, resamples), spread


def test_as_many_records_as_estimated_halve_the_interval():
    power, spread = estimate((300, 600, 1200))
    for n, records_J in enumerate(power.to_halve):
        assert (records_J >= power.now).all() and (records_J > power.now).any()
        _, narrower = estimate(records_J)
        width, half = (float(s.high["weight"][n] - s.low["weight"][n]) for s in (spread, narrower))
        assert half / width == pytest.approx(0.5, abs=0.08)


def test_as_many_records_as_estimated_make_the_interval_exclude_1():
    power, spread = estimate((150, 150, 150))
    n = int(np.argmax(np.where(spread.low["weight"] < 1, power.to_exclude_one, 0) * (power.to_exclude_one < 100)))
    factor = power.to_exclude_one[n]
    assert factor > 1
    for change, excluded in ((2.0, True), (0.5, False)):
        _, other = estimate([round(150 * factor * change)] * 3)
        assert (other.low["weight"][n] > 1 or other.high["weight"][n] < 1) == excluded


@given(
    st.lists(st.tuples(st.floats(0.001, 10) | st.just(0.0), st.integers(10, 10_000)), min_size=1, max_size=6),
    st.floats(0.05, 0.95),
    st.randoms(use_true_random=False),
)
def test_no_allocation_reaches_the_same_variance_with_fewer_records(parts, share, random):
    variance_J, now_J = (np.array(column) for column in zip(*parts, strict=True))
    records_J = fewest_records(variance_J, now_J, share)
    reached = (variance_J * now_J / records_J).sum()
    assert reached <= share * variance_J.sum() * (1 + 1e-6)
    assert (records_J >= now_J).all()
    taken, given = random.randrange(len(parts)), random.randrange(len(parts))
    moved_J = records_J.astype(float)
    amount = 0.1 * (records_J[taken] - now_J[taken])
    moved_J[taken] -= amount
    moved_J[given] += amount
    rounding = len(parts) * variance_J.max() / now_J.min()  # records are whole numbers
    assert (variance_J * now_J / moved_J).sum() >= reached * (1 - 1e-6) - rounding


def test_the_estimated_number_of_runs_halves_the_interval():
    draw = np.random.default_rng(3)

    def run():
        scores = SCORE + draw.normal(0, 0.01, SCORE.shape)
        return ScoreMatrix("run", TASKS, TASKS, np.arange(3), scores[0], scores[1:])

    def spread_of(matrices):
        weighting = w.weigh(mean_matrix(matrices))
        return weighting, spread_of_runs(matrices, weigh_alike(matrices[0], weighting, "fail", 0.0), weighting)

    widths = {3: [], 5: []}
    for _ in range(60):
        weighting, spread = spread_of([run() for _ in range(3)])
        power = power_of_runs(weighting, spread, 3)
        assert power.to_halve.tolist() == [5, 5, 5]  # t(4) / sqrt(5) = 1.24 against t(2) / sqrt(3) = 2.48
        widths[3].append(power.half_width**2)
        widths[5].append(power_of_runs(*spread_of([run() for _ in range(5)]), 5).half_width ** 2)
    assert np.sqrt(np.mean(widths[5]) / np.mean(widths[3])) == pytest.approx(0.5, abs=0.08)


def test_a_weight_that_is_1_needs_more_runs_than_anybody_trains():
    scores = np.full((4, 3), 0.3) + np.vstack([np.zeros(3), 0.3 * np.eye(3)])
    draw = np.random.default_rng(0)
    alike = []
    for _ in range(4):
        noisy = scores + draw.normal(0, 0.02, scores.shape)
        alike.append(ScoreMatrix("run", TASKS, TASKS, np.arange(3), noisy[0], noisy[1:]))
    centre = w.weigh(ScoreMatrix("run", TASKS, TASKS, np.arange(3), scores[0], scores[1:]))
    power = power_of_runs(centre, spread_of_runs(alike, weigh_alike(alike[0], centre, "fail", 0.0), centre), 4)
    assert all(math.isinf(value) for value in power.to_exclude_one)
    assert power.to_json()["to_exclude_one"] == [None] * 3
    assert "> 200" in format_power(power)


def test_power_without_intervals_is_refused_and_with_runs_reported(rows, write_scores, tmp_path, monkeypatch, capsys):
    first = write_scores(rows, name="first.csv")
    rows["A"]["B"] += 3.0
    second = write_scores(rows, name="second.csv")
    output = tmp_path / "w.json"
    monkeypatch.setattr(sys, "argv", ["w", "--scores", str(first), "--power"])
    with pytest.raises(w.InputError, match="--power needs intervals. Add --bootstrap"):
        w.main()
    monkeypatch.setattr(sys, "argv", ["w", "--scores", str(first), str(second), "--power", "--output", str(output)])
    w.main()
    printed = capsys.readouterr().out
    assert "Power: runs (seeds)" in printed and "to exclude 1" in printed
    content = json.loads(output.read_text())["power"]
    assert content["kind"] == "runs" and content["now"] == [2] and content["to_halve"] == [3.0, 3.0, 3.0]
