"""Eq. 9: dI%, dE%, dI_zero%."""

import json
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import overall
from eval.overall import compare
from eval.overall_table import format_table
from visatb.errors import InputError
from visatb.weighting.tables import ScoreTable

SCORES = st.floats(1e-3, 1e3)


def write(path, text):
    path.write_text(text)
    return str(path)


@pytest.fixture
def tables(tmp_path):
    baseline = write(tmp_path / "stl.csv", "model,A,B\nSTL,10,0.5\n")
    results = write(tmp_path / "ours.csv", "model,B,A\nEW,0.45,11\nVisATB,0.6,12\n")
    return baseline, results


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["overall.py", *arguments])
    return overall.main()


def test_a_gain_and_a_loss_are_weighed_as_in_eq_9():
    by_task = overall.improvements({"A": 11, "B": 0.45}, {"A": 10, "B": 0.5})
    assert by_task == pytest.approx({"A": 0.1, "B": -0.1})
    assert overall.overall_improvement(by_task) == pytest.approx(0.0)
    assert overall.overall_deterioration(by_task) == pytest.approx(5.0)


def test_several_metrics_of_a_task_are_averaged_before_the_tasks():
    baseline = {"A": 10.0, "B:EM": 10.0, "B:error": 10.0}
    by_task = overall.improvements({"A": 10.0, "B:EM": 12.0, "B:error": 9.0}, baseline, ["B:error"])
    assert by_task == pytest.approx({"A": 0.0, "B": 0.15})
    assert overall.overall_improvement(by_task) == pytest.approx(7.5)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=6))
def test_deterioration_is_never_negative_and_explains_the_losses(pairs):
    ours = {str(n): pair[0] for n, pair in enumerate(pairs)}
    base = {str(n): pair[1] for n, pair in enumerate(pairs)}
    by_task = overall.improvements(ours, base)
    gained = 100 * sum(max(0.0, value) for value in by_task.values()) / len(by_task)
    lost = overall.overall_deterioration(by_task)
    assert lost >= 0
    assert math.isclose(overall.overall_improvement(by_task), gained - lost, rel_tol=1e-9, abs_tol=1e-6)


@given(st.lists(SCORES, min_size=1, max_size=6))
def test_the_baseline_against_itself_is_zero(values):
    scores = {str(n): value for n, value in enumerate(values)}
    by_task = overall.improvements(scores, scores)
    assert overall.overall_improvement(by_task) == overall.overall_deterioration(by_task) == 0


@pytest.mark.parametrize(
    ("ours", "base", "lower"),
    [
        ({"A": 1.0}, {"A": 1.0, "B": 1.0}, ()),
        ({"A": 1.0, "B": 1.0}, {"A": 1.0}, ()),
        ({"A": 1.0}, {"A": 0.0}, ()),
        ({"A": 1.0}, {"A": 1.0}, ("B",)),
        ({"A": 1e308}, {"A": 1e-308}, ()),
        ({"A": 1e308}, {"A": 1.0}, ()),  # finite as a fraction, not in percent
    ],
)
def test_scores_that_cannot_be_compared_are_refused(ours, base, lower):
    with pytest.raises(InputError):
        overall.improvements(ours, base, lower)


def test_the_command_prints_a_table_and_writes_markdown_and_json(tables, tmp_path, monkeypatch, capsys):
    output, markdown = tmp_path / "o.json", tmp_path / "o.md"
    call(
        monkeypatch,
        "--baseline",
        tables[0],
        "--results",
        tables[1],
        "--output",
        str(output),
        "--markdown",
        str(markdown),
    )
    printed = capsys.readouterr().out
    assert "dI%" in printed
    assert "(+20.00%)" in printed
    content = json.loads(output.read_text())
    assert list(content["models"]) == ["EW", "VisATB"]
    assert content["models"]["VisATB"]["dI_percent"] == pytest.approx(20.0)
    assert content["models"]["EW"]["dE_percent"] == pytest.approx(5.0)
    lines = markdown.read_text().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert set(lines[1]) <= set("|-: ")


def test_zero_shot_prints_the_one_number_that_has_a_meaning(tables, monkeypatch, capsys):
    call(monkeypatch, "--baseline", tables[0], "--results", tables[1], "--zero-shot", "--format", "json")
    entry = json.loads(capsys.readouterr().out)["models"]["VisATB"]
    assert entry["dI_zero_percent"] == pytest.approx(20.0)
    assert "dE_percent" not in entry


def test_single_task_models_together_are_the_baseline(tables, tmp_path, monkeypatch, capsys):
    for task, score in (("A", 10), ("B", 0.5)):
        folder = tmp_path / "stl" / task
        folder.mkdir(parents=True)
        metric = {"metric": "exact_match", "score": score, "task": task, "generator": f"stl-{task}"}
        write(folder / f"{task}.json", json.dumps(metric))
    call(monkeypatch, "--baseline", tables[0], "--results", tables[1], "--format", "json")
    from_csv = capsys.readouterr().out
    call(monkeypatch, "--baseline", str(tmp_path / "stl"), "--results", tables[1], "--format", "json")
    assert capsys.readouterr().out == from_csv


def test_a_baseline_of_several_models_must_be_chosen(tables, monkeypatch, capsys):
    with pytest.raises(InputError, match="--baseline-model"):
        call(monkeypatch, "--baseline", tables[1], "--results", tables[1])
    call(monkeypatch, "--baseline", tables[1], "--results", tables[1], "--baseline-model", "EW", "--format", "markdown")
    assert "| EW " in capsys.readouterr().out
    with pytest.raises(InputError, match="has no model 'TLA'"):
        call(monkeypatch, "--baseline", tables[1], "--results", tables[1], "--baseline-model", "TLA")


def test_an_output_over_a_table_or_the_other_output_is_refused(tables, tmp_path, monkeypatch):
    for outputs in (("--output", tables[1]), ("--output", str(tmp_path / "o"), "--markdown", str(tmp_path / "o"))):
        with pytest.raises(InputError, match="overwritten"):
            call(monkeypatch, "--baseline", tables[0], "--results", tables[1], *outputs)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "layout, best, second",
    [
        ("text", "80.00 (+33.33%)*", "70.00 (+16.67%)+"),
        ("markdown", "**80.00 (+33.33%)**", "<u>70.00 (+16.67%)</u>"),
        ("latex", r"\textbf{80.00}", r"\underline{70.00}"),
    ],
)
def test_best_and_second_best_are_marked_in_every_layout_and_direction(layout, best, second):
    results = ScoreTable(
        "r",
        ("A_B", "E"),
        {"one": {"A_B": 80.0, "E": 4.0}, "two": {"A_B": 70.0, "E": 2.0}, "three": {"A_B": 60.0, "E": 4.0}},
    )
    text = format_table(compare(results, {"A_B": 60.0, "E": 5.0}, ["E"]), layout)
    assert text.count(best) == 1 and text.count(second) == 1
    error_cells = {"text": "2.0000 (+60.00%)*", "markdown": "**2.0000 (+60.00%)**", "latex": r"\textbf{2.0000}"}
    assert error_cells[layout] in text
    if layout == "latex":
        assert r"A\_B" in text and text.startswith(r"\begin{tabular}{lrrrr}") and r"$\Delta I\%$" in text
        assert text.count(r"\\") == 5 and text.count("&") == 4 * 5


def test_a_bar_in_a_name_does_not_split_a_cell_of_a_markdown_table():
    table = format_table(compare(ScoreTable("r", ("A|B",), {"x|y": {"A|B": 2.0}}), {"A|B": 1.0}), "markdown")
    header, rule, *rows = table.splitlines()
    assert r"A\|B" in header and rows[1].startswith(r"| x\|y ")
    assert all(row.replace(r"\|", "").count("|") == rule.count("|") for row in (header, *rows))
