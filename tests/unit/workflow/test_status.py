"""`visatb status`: what it says of steps in every state, from the files of a run alone."""

import fcntl
import json
import sys
import time

import pytest

from scripts_visatb.workflow.job import lock_file, run_step
from scripts_visatb.workflow.plan import PLAN, Planned, note_plan
from scripts_visatb.workflow.status import DONE, FAILED, LEFT, RUNNING, describe, main, read_status
from visatb.errors import InputError

STEPS = ("prepare", "train_mini", "train_EW", "infer_EW_test", "score_EW_test")


@pytest.fixture
def folder(tmp_path):
    """A run of which one step is done, one runs, one has failed and two are left."""
    run = tmp_path / "demo"
    records = ["done/prepare.json", *(f"seed0/done/{name}.json" for name in STEPS[1:])]
    planned = [
        Planned(record, record.split("/")[-1].split("_")[0], "0" if "seed" in record else None) for record in records
    ]
    (run / "logs").mkdir(parents=True)
    note_plan(run, planned)
    python = [sys.executable, "-c"]
    assert run_step("prepare data", run / records[0], run / "logs/prepare.log", [*python, "print('made')"]) == 0
    failing = [*python, "import sys; print('the card is on fire'); sys.exit(3)"]
    assert run_step("train mini (seed 0)", run / records[1], run / "logs/seed0_train_mini.log", failing) == 3
    with open(lock_file(run / records[2]), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(time.time() - 125))
        lock.flush()
        (run / "logs/seed0_train_EW.log").write_text("--- start\n 10/50\r 33/50 [02:00<01:00]")
        yield run


def test_every_step_has_the_state_that_its_files_show(folder):
    steps = read_status(folder)
    assert [step.state for step in sorted(steps, key=lambda step: step.name)] == [LEFT, DONE, LEFT, RUNNING, FAILED]
    states = {step.state: step for step in steps}
    assert states[DONE].name == "prepare data" and states[DONE].seconds > 0
    assert 124 < states[RUNNING].seconds < 200 and states[RUNNING].lines == (" 33/50 [02:00<01:00]",)
    assert states[FAILED].code == 3 and states[FAILED].lines[-1] == "the card is on fire"
    assert states[FAILED].log == str(folder / "logs/seed0_train_mini.log")


def test_the_text_names_counts_logs_and_how_to_continue(folder):
    text = describe(folder, read_status(folder))
    assert f"{folder}: 1 of 5 steps done, 1 running, 1 failed, 2 left, started " in text
    assert "not running: the same command as before resumes it" in text
    assert "running: train EW (seed 0), for 2 min 0" in text and "  |  33/50 [02:00<01:00]" in text
    assert f"failed: train mini (seed 0) with exit code 3, log {folder}/logs/seed0_train_mini.log" in text
    assert text.endswith("last done: prepare data\nleft: 1 infer, 1 score")


def test_a_step_that_is_tried_again_is_no_longer_failed(folder):
    record, log = folder / "seed0/done/train_mini.json", folder / "logs/seed0_train_mini.log"
    assert run_step("train mini (seed 0)", record, log, [sys.executable, "-c", "print('fine')"]) == 0
    assert FAILED not in {step.state for step in read_status(folder)}


def test_the_process_that_makes_the_run_is_named(folder):
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("pid 17 on node3\n")
        lock.flush()
        assert "made by pid 17 on node3" in describe(folder, read_status(folder))


def test_a_finished_run_says_what_to_look_at(folder):
    plan = json.loads((folder / PLAN).read_text())
    (folder / PLAN).write_text(json.dumps(plan | {"steps": plan["steps"][:1]}))
    (folder / "report.html").touch()
    text = describe(folder, read_status(folder))
    assert "all 1 steps are done" in text and text.endswith(f"look at {folder}/report.html")


def test_json_has_every_step_and_a_folder_without_a_run_is_refused(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["status", str(folder), "--json"])
    main()
    assert {step["state"] for step in json.loads(capsys.readouterr().out)} == {DONE, RUNNING, FAILED, LEFT}
    with pytest.raises(InputError, match="no run was started there"):
        read_status(tmp_path)
