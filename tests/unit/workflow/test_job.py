"""The wrapper of every step: its record, its log, its lock, its end."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from waiting import PATIENCE, until

from scripts_visatb.workflow.job import exclusive, last_lines, run_step
from visatb.errors import InputError


def start(folder, repository, *command):
    words = [sys.executable, "-m", "scripts_visatb.workflow.job", "--name", "a step"]
    words += ["--record", str(folder / "done/step.json"), "--log", str(folder / "step.log"), "--", *command]
    return subprocess.Popen(words, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_record_has_time_and_memory_of_the_whole_process_tree(tmp_path, repository):
    code = "import time; block = b'x' * 120_000_000; time.sleep(1)"
    step = start(tmp_path, repository, "bash", "-c", f'{sys.executable} -c "{code}"; true')
    shown, errors = step.communicate(timeout=PATIENCE)
    assert step.returncode == 0, errors
    record = json.loads((tmp_path / "done/step.json").read_text())
    assert record["seconds"] >= 1
    assert 110 < record["peak_mib"] < 400
    assert "done   a step" in shown


def test_failed_step_leaves_no_record_and_shows_the_end_of_its_log(tmp_path, repository):
    step = start(tmp_path, repository, "bash", "-c", "seq 100; echo it broke >&2; exit 7")
    _, errors = step.communicate(timeout=PATIENCE)
    assert step.returncode == 7
    assert not (tmp_path / "done/step.json").exists()
    assert "a step failed with exit code 7" in errors
    assert "it broke" in errors
    assert "| 99" in errors
    assert "| 10\n" not in errors


def test_terminated_step_takes_its_children_along(tmp_path, repository):
    step = start(tmp_path, repository, "bash", "-c", f"echo $$ > {tmp_path}/pid; sleep 100 & sleep 100")
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), step)
    children = psutil.Process(step.pid).children(recursive=True)
    step.send_signal(signal.SIGTERM)
    step.communicate(timeout=PATIENCE)
    assert step.returncode == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert not alive
    assert not (tmp_path / "done/step.json").exists()


def test_processes_of_an_attempt_whose_supervisor_was_killed_are_ended(tmp_path, repository):
    step = start(tmp_path, repository, "bash", "-c", f"echo started > {tmp_path}/started; sleep 100; true")
    until((tmp_path / "started").exists, step)
    orphans = psutil.Process(step.pid).children(recursive=True)
    step.kill()
    step.communicate(timeout=PATIENCE)
    again = start(tmp_path, repository, "true")
    _, errors = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, errors
    _, alive = psutil.wait_procs(orphans, timeout=PATIENCE)
    assert not alive


def test_lock_is_exclusive_and_freed(tmp_path):
    with (
        exclusive(tmp_path / "lock"),
        pytest.raises(InputError, match="another process holds this lock"),
        exclusive(tmp_path / "lock", wait=0.1),
    ):
        pass
    with exclusive(tmp_path / "lock", wait=0.1):
        assert os.path.exists(tmp_path / "lock")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_names_the_log(tmp_path):
    with pytest.raises(OSError) as caught:
        run_step("a step", tmp_path / "done.json", Path("/dev/full"), ["true"])
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")


def test_last_lines_show_only_the_last_state_of_a_progress_bar(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"first\n 10%\r 50%\r100%\n\nlast \xff\n")
    assert last_lines(log, 2) == ["100%", "last \ufffd"]
