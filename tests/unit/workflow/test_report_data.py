"""What the report is made of: overall metrics, curves, jobs."""

import json

import pytest

from scripts_visatb.workflow.report import duration
from scripts_visatb.workflow.report_data import curves, jobs, overall


def test_overall_is_equation_9():
    rows = [
        {"task": "a", "STL": 2.0, "EW": 1.0, "VisATB": 2.5},
        {"task": "b", "STL": 0.5, "EW": 0.6, "VisATB": 0.4},
    ]
    found = overall(rows)
    assert found["EW"]["dI"] == pytest.approx(100 * (-0.5 + 0.2) / 2)
    assert found["EW"]["dE"] == pytest.approx(25.0)
    assert found["VisATB"]["tasks"] == pytest.approx({"a": 25.0, "b": -20.0})


def test_curves_average_long_logs_and_skip_absent_losses(tmp_path):
    from types import SimpleNamespace

    task = SimpleNamespace(name="a", measured=True)
    run = SimpleNamespace(benchmark=SimpleNamespace(tasks=[task], measured=[task]), model=lambda name: tmp_path / name)
    (tmp_path / "EW").mkdir()
    lines = [
        {"step": n, "epoch": n / 100, "tasks": {"a": {"loss": None if n == 0 else 2.0, "weight": 1, "tokens": 3}}}
        for n in range(1001)
    ]
    (tmp_path / "EW" / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = curves(run)["a"]
    assert list(found) == ["EW"]
    assert len(found["EW"]) == 200
    assert found["EW"][0] == pytest.approx([0.03, 2.0])


def test_jobs_are_in_order_of_start_and_hidden_files_are_left_out(tmp_path):
    done = tmp_path / "done"
    done.mkdir()
    for name, started in (("train_b", 7.0), ("train_a", 5.0)):
        record = {"name": name, "started": started, "seconds": 1.0, "peak_mib": 2.0, "command": [], "log": ""}
        (done / f"{name}.json").write_text(json.dumps(record))
    (done / ".train_a.json.x.part").write_text("half")
    found = jobs(tmp_path, [])
    assert [(job["name"], job["started"], job["kind"]) for job in found] == [
        ("train_a", 0.0, "train"),
        ("train_b", 2.0, "train"),
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (245, "4 min 05 s"), (3600 * 3 + 20 * 60, "3 h 20 min")]
)
def test_duration_is_readable(seconds, text):
    assert duration(seconds) == text
