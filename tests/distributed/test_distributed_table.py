"""A small part of the table of perf/distributed_table.py, four gloo processes and ZeRO-3 among its layouts."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from forked import run_ranks
from waiting import PATIENCE

from perf import distributed_table
from perf.distributed_data import MAX_LENGTH, ROOT, SAMPLES_PER_STEP, TASKS, absent_task
from perf.distributed_table import LAYOUTS, make_table, output_of, parse, read_log


def flags(folder: Path, *more: str) -> list[str]:
    return ["--folder", str(folder), "--steps", "6", *more]


def start_forked(processes: int, module: str, words: list[str], log) -> SimpleNamespace:
    """As perf.distributed_data.start_processes, in less time."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    codes, err = run_ranks(["-m", module, *words], processes, env, ROOT)
    log.write(err.encode())
    return SimpleNamespace(wait=lambda _: max(codes))


def test_the_split_of_a_step_over_processes_does_not_matter(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distributed_table, "start_processes", start_forked)
    layouts = ("4 x 2", "ZeRO-3 x 2")
    code = make_table(parse(flags(tmp_path, "--strategies", "DWA", "EW + weights", "--layouts", *layouts)))
    shown = capsys.readouterr()
    assert code == 0, shown
    assert all(word in shown.out for word in (*layouts, "DWA", "EW + weights"))
    for layout in ("1 x 8", *layouts):  # what makes the data hard is really there
        lines = read_log(output_of(tmp_path, "DWA", layout))
        assert [absent_task(n) for n in range(6)] == [None, None, None, "Caption", None, None]
        assert lines[3]["tasks"]["Caption"]["tokens"] == 0
        assert all(lines[2]["tasks"][task]["tokens"] > 0 for task in TASKS)
        assert [line["tasks"]["Chat"]["tokens"] for line in lines] == [
            line["tasks"]["Chat"]["tokens"] for line in read_log(output_of(tmp_path, "DWA", "1 x 8"))
        ]


def test_the_table_finds_what_depends_on_the_split(repository, tmp_path):
    words = flags(tmp_path, "--strategies", "EW + weights", "--layouts", "2 x 4", "--loss_normalization", "batch")
    command = [sys.executable, "-m", "perf.distributed_table", *words]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "largest" in done.stdout


def test_every_small_layout_has_a_micro_batch_without_supervised_tokens(tmp_path):
    import random

    from perf.distributed_data import _records_of_step

    records = _records_of_step(2, random.Random(0))
    long = [len(record["conversations"][0]["value"].split()) >= MAX_LENGTH for record in records]
    assert long == [True] * 4 + [False] * 4 and len(records) == SAMPLES_PER_STEP
    assert {layout.per_device for layout in LAYOUTS.values()} == {8, 4, 2}
