"""Several runs of one measurement: their mean, its error, and what is said of runs in which a task failed."""

import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import weighting_visatb as w
from visatb.errors import InputError
from visatb.weighting.matrix import ScoreMatrix, mean_matrix
from visatb.weighting.uncertainty import NOT_DISTINGUISHABLE, jackknife_error, spread_of_runs, t_quantile

SINGLE = {"mini": {"A": 0.4, "B": 10.0, "C": 0.2}, "full": {"A": 0.8, "B": 50.0, "C": 0.4}}


@pytest.fixture
def call(monkeypatch, tmp_path):
    def call(*arguments):
        words = ["weighting_visatb.py", *map(str, arguments), "--output", str(tmp_path / "w.json")]
        monkeypatch.setattr(sys, "argv", words)
        w.main()
        return json.loads((tmp_path / "w.json").read_text())

    return call


def scaled(rows, factor):
    """The run in which task A gained that much of its gain."""
    changed = {model: dict(cells) for model, cells in rows.items()}
    changed["A"]["A"] = changed["mini"]["A"] + factor * (changed["A"]["A"] - changed["mini"]["A"])
    return changed


@pytest.mark.parametrize(
    ("freedom", "probability", "value"),
    [(1, 0.975, 12.7062), (2, 0.975, 4.30265), (3, 0.975, 3.18245), (4, 0.95, 2.13185), (9, 0.995, 3.24984),
     (30, 0.975, 2.04227), (400, 0.975, 1.96591)],
)  # fmt: skip
def test_quantiles_of_students_t_are_those_of_the_tables(freedom, probability, value):
    assert t_quantile(probability, freedom) == pytest.approx(value, rel=2e-5)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8))
def test_the_jackknife_of_a_mean_is_its_standard_error(values):
    left_out = np.array([(sum(values) - value) / (len(values) - 1) for value in values])
    expected = np.std(values, ddof=1) / math.sqrt(len(values))
    assert jackknife_error(left_out) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_in_a_world_of_equal_weights_few_are_called_unequal():
    draw = np.random.default_rng(5)
    tasks = ("A", "B", "C", "D")

    def run():
        score_NN = 0.45 + 0.15 * np.eye(4) + draw.normal(0, 0.01, (4, 4))
        return ScoreMatrix("run", tasks, tasks, np.arange(4), 0.4 + draw.normal(0, 0.01, 4), score_NN)

    def weigh(matrix):
        return w.weigh(matrix, on_failed="clip")

    marked = 0
    for _ in range(250):
        runs = [run() for _ in range(3)]
        spread = spread_of_runs(runs, weigh, weigh(mean_matrix(runs)))
        marked += int(((spread.low["weight"] > 1) | (spread.high["weight"] < 1)).sum())
    assert 0.03 < marked / 1000 < 0.07  # 5 % at 95 %; +-1 standard error marks 42 %


def test_runs_are_averaged_and_get_intervals_of_t_standard_errors(rows, write_scores, tmp_path, call, capsys):
    files = [write_scores(scaled(rows, factor), name=f"{n}.csv") for n, factor in enumerate((0.5, 1.0, 1.5))]
    found = call("--scores", *files, "--plot", tmp_path / "w.png")
    spread = found["spread"]
    for name in ("weight", "difficulty"):
        low, high, error = (np.array(spread[key][name]) for key in ("low", "high", "error"))
        np.testing.assert_allclose(high - low, 2 * 4.30265 * error, rtol=1e-5, atol=1e-9)
    assert found["weights"] == pytest.approx(call("--scores", files[1])["weights"])
    assert (spread["failed"], spread["total"]) == (0, 3) and (tmp_path / "w.png").stat().st_size
    out = capsys.readouterr().out
    assert "95% interval over 3 runs: 4.30 (Student's t, 2 degrees of freedom)" in out and NOT_DISTINGUISHABLE in out
    assert call("--scores", *files, "--confidence", 0.5)["spread"]["low"]["weight"] > spread["low"]["weight"]
    other = write_scores({m: {t: c[t] for t in "AB"} for m, c in rows.items() if m != "C"}, "AB", "other.csv")
    with pytest.raises(InputError, match="must score the tasks of"):
        call("--scores", files[0], other)


@pytest.mark.parametrize("gains", [(1.0, 0.9, -0.05), (1.0, -0.1)])
def test_a_run_in_which_a_task_failed_counts_in_mean_and_error(rows, write_scores, call, capsys, gains):
    files = [write_scores(scaled(rows, gain), name=f"{n}.csv") for n, gain in enumerate(gains)]
    found = call("--scores", *files)
    mean = call("--scores", write_scores(scaled(rows, sum(gains) / len(gains)), name="mean.csv"))
    assert found["weights"] == pytest.approx(mean["weights"])
    alike = call("--scores", *[write_scores(scaled(rows, 1.0 + n / 100), name=f"{n}.csv") for n in range(len(gains))])
    a = found["tasks"].index("A")
    assert found["spread"]["error"]["difficulty"][a] > 5 * alike["spread"]["error"]["difficulty"][a]
    assert found["spread"]["failed"] == 1
    printed = capsys.readouterr()
    assert f"a task failed in 1 of {len(gains)}; every run counts in the mean and in the error" in printed.out
    last = f"{len(gains) - 1}.csv"
    assert any(line.startswith("note: run") and f"{last}: A scores 0." in line for line in printed.err.splitlines())


def test_a_mean_in_which_a_task_failed_is_refused_with_its_mean_scores(rows, write_scores, call):
    files = [write_scores(scaled(rows, gain), name=f"{n}.csv") for n, gain in enumerate((1.0, -1.2))]
    with pytest.raises(InputError, match=r"A scores 0\.47 with its own data \(A\) and 0\.5 without"):
        call("--scores", *files)


def test_one_single_task_table_for_several_runs_is_noted_to_hide_error(rows, write_scores, call, capsys):
    files = [write_scores(scaled(rows, 1 + n / 10), name=f"{n}.csv") for n in range(3)]
    single = write_scores(SINGLE, name="single.csv")
    found = call("--scores", *files, "--form", "precise", "--single-scores", single)
    assert found["spread"]["error"]["difficulty"] == pytest.approx([0, 0, 0])
    assert "the difficulty has no error of its own" in found["notes"][0]
    assert f"note: {found['notes'][0]}" in capsys.readouterr().err
    base = [
        {"base" if model == "mini" else model: cells for model, cells in scaled(rows, 1 + n).items()} for n in (0, 1)
    ]
    files = [write_scores(run, name=f"base{n}.csv") for n, run in enumerate(base)]
    found = call("--scores", *files, "--form", "simpler", "--single-scores", write_scores({"mini": SINGLE["mini"]}))
    assert "the error of V(mini) is not in that of the difficulty" in found["notes"][0]


def test_a_single_task_table_for_each_run_gives_the_difficulty_error(rows, write_scores, call):
    files = [write_scores(rows, name=f"{n}.csv") for n in range(2)]
    singles = [
        write_scores({"mini": {**SINGLE["mini"], "A": value}, "full": SINGLE["full"]}, name=f"single{value}.csv")
        for value in (0.4, 0.2)
    ]
    found = call("--scores", *files, "--form", "precise", "--single-scores", *singles)
    assert found["difficulty"][0] == pytest.approx(1 - 0.3 / 0.8)
    assert found["spread"]["error"]["difficulty"][0] == pytest.approx(0.125)  # of 0.5 and 0.75
    assert found["notes"] == []
    with pytest.raises(InputError, match="must be one, or one for each of 2 --scores, got 3"):
        call("--scores", *files, "--form", "precise", "--single-scores", *singles, singles[0])
