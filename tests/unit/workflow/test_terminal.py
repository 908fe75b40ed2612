"""What a run shows: rewritten lines and colours on a terminal, plain lines elsewhere, and what may be run next."""

import fcntl
import os
import pty
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from scripts_visatb.workflow.job import lock_file
from scripts_visatb.workflow.plan import Planned, note_plan
from scripts_visatb.workflow.terminal import ROWS, next_commands, rows

# Stands in for Snakemake: a step that starts and ends, and a failure on stderr.
STEPS = """
import os, sys, time
print("         start  train mini (seed 0)", flush=True)
print("live:", os.environ.get("VISATB_LIVE"), flush=True)
time.sleep(2.2)
print("   1/20  done   train mini (seed 0)  2.2 s", flush=True)
print("x failed with exit code 3; [bold]the end[/bold] of y:", file=sys.stderr, flush=True)
sys.exit(4)
"""
CALL = """
import sys
from pathlib import Path
from scripts_visatb.workflow.run import run_snakemake
sys.exit(run_snakemake([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2])))
"""


@pytest.fixture
def folder(tmp_path):
    """A run with 20 planned trainings, of which the first runs."""
    names = ["mini", *(f"T{n}-plus-mini" for n in range(19))]
    note_plan(tmp_path, [Planned(f"seed0/done/train_{name}.json", "train", "0") for name in names])
    locks = []
    for name in names[:1]:
        lock = lock_file(tmp_path / f"seed0/done/train_{name}.json")
        lock.parent.mkdir(parents=True)
        locks.append(open(lock, "w"))  # noqa: SIM115 - held until the test has ended
        fcntl.flock(locks[-1], fcntl.LOCK_EX)
        locks[-1].write(str(time.time() - 61))
        locks[-1].flush()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/seed0_train_mini.log").write_text("--- start\n 10/50\r 33/50 [02:00<01:00]")
    yield tmp_path
    for lock in locks:
        lock.close()


def on_a_terminal(repository, folder, **environment) -> str:
    """What the command writes to a terminal of 80 columns."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": "80", "PYTHONPATH": str(repository)} | environment
        os.execv(sys.executable, [sys.executable, "-c", CALL, STEPS, str(folder)])
    text = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux reports the end of a terminal so
            break
        if not part:
            break
        text += part
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    return text.decode()


def test_a_terminal_shows_running_steps_in_lines_that_are_rewritten(repository, folder):
    text = on_a_terminal(repository, folder)
    assert "live: 1" in text, "the steps know that they need not print their progress"
    assert len(re.findall(r"train mini \(seed 0\)  1 min 0\d s  33/50 \[02:00<01:00\]", text)) >= 2
    assert "\x1b[2K" in text and "\x1b[32m" in text and "\x1b[31m" in text
    assert "[bold]the end[/bold]" in text
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)
    assert all(len(line) < 80 for line in plain.replace("\r", "\n").splitlines())


def test_a_terminal_without_colours_gets_none(repository, folder):
    assert not re.search(r"\x1b\[\d*;?3\dm", on_a_terminal(repository, folder, NO_COLOR="1"))
    assert "\x1b" not in on_a_terminal(repository, folder, TERM="dumb")


def test_a_log_file_gets_plain_lines_only(repository, folder):
    command = [sys.executable, "-c", CALL, STEPS, str(folder)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(repository)}, capture_output=True, text=True)
    assert done.returncode == 4
    assert (
        done.stdout == "         start  train mini (seed 0)\nlive: None\n   1/20  done   train mini (seed 0)  2.2 s\n"
    )
    assert done.stderr == "x failed with exit code 3; [bold]the end[/bold] of y:\n"


def test_rows_stay_few_and_within_the_width(folder):
    files = [lock_file(folder / f"seed0/done/train_T{n}-plus-mini.json") for n in range(19)]
    streams = [open(file, "w") for file in files]  # noqa: SIM115
    for stream in streams:
        fcntl.flock(stream, fcntl.LOCK_EX)
    lines = rows(folder, 40).plain.splitlines()
    for stream in streams:
        stream.close()
    assert len(lines) == ROWS + 2 and lines[0].startswith("0/20 steps done") and lines[-1] == "  and 8 more"
    assert max(map(len, lines)) < 40


def test_the_last_lines_name_what_may_be_run_next():
    benchmark = SimpleNamespace(baselines=["TLA"], ablations=())
    both = next_commands(benchmark, "b.yaml", 4, 1, [])
    assert [line.partition("   #")[0] for line in both] == [
        "visatb run --benchmark b.yaml --cores 4 all",
        "visatb run --benchmark b.yaml --cores 4 --seeds 0 1 2",
    ]
    assert next_commands(benchmark, "b.yaml", 4, 3, ["all"]) == []
    assert next_commands(benchmark, "b.yaml", 2, 1, ["weights"])[0].startswith(
        "visatb run --benchmark b.yaml --cores 2  "
    )
