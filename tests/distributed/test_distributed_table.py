"""A small part of the table of perf/distributed_table.py, four gloo processes and ZeRO-3 among its layouts."""

import os
import subprocess
import sys
from pathlib import Path

from perf.distributed_data import MAX_LENGTH, SAMPLES_PER_STEP, TASKS, absent_task
from perf.distributed_table import LAYOUTS, output_of, read_log


def run_table(repository: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "perf.distributed_table", "--folder", str(folder), "--steps", "6", *flags]
    env = os.environ | {"PYTHONPATH": str(repository)}
    return subprocess.run(command, cwd=repository, env=env, capture_output=True, text=True, timeout=300)


def test_the_split_of_a_step_over_processes_does_not_matter(repository, tmp_path):
    layouts = ("4 x 2", "ZeRO-3 x 2")
    done = run_table(repository, tmp_path, "--strategies", "DWA", "EW + weights", "--layouts", *layouts)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(word in done.stdout for word in (*layouts, "DWA", "EW + weights"))
    for layout in ("1 x 8", *layouts):  # what makes the data hard is really there
        lines = read_log(output_of(tmp_path, "DWA", layout))
        assert [absent_task(n) for n in range(6)] == [None, None, None, "Caption", None, None]
        assert lines[3]["tasks"]["Caption"]["tokens"] == 0
        assert all(lines[2]["tasks"][task]["tokens"] > 0 for task in TASKS)
        assert [line["tasks"]["Chat"]["tokens"] for line in lines] == [
            line["tasks"]["Chat"]["tokens"] for line in read_log(output_of(tmp_path, "DWA", "1 x 8"))
        ]


def test_the_table_finds_what_depends_on_the_split(repository, tmp_path):
    flags = ("--strategies", "EW + weights", "--layouts", "1 x 4 x acc 2", "--loss_normalization", "batch")
    done = run_table(repository, tmp_path, *flags)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "largest" in done.stdout


def test_every_small_layout_has_a_micro_batch_without_supervised_tokens(tmp_path):
    import random

    from perf.distributed_data import _records_of_step

    records = _records_of_step(2, random.Random(0))
    long = [len(record["conversations"][0]["value"].split()) >= MAX_LENGTH for record in records]
    assert long == [True] * 4 + [False] * 4 and len(records) == SAMPLES_PER_STEP
    assert {layout.per_device for layout in LAYOUTS.values()} == {8, 4, 2}
