"""The end of a run on several ranks (gloo)."""

import time

import torch
from forked import run_as_ranks

from llava.train.run_folder import leave_together

LATE_S = 1.0


def end_as_rank(rank, folder):
    torch.distributed.init_process_group("gloo")
    if rank == 1:
        time.sleep(LATE_S)
        (folder / "written").touch()
    leave_together()
    assert not torch.distributed.is_initialized()
    assert (folder / "written").exists()


def test_no_rank_ends_before_the_last_one_has_written(tmp_path):
    run_as_ranks(end_as_rank, 2, tmp_path)


def test_a_single_process_ends_without_a_group():
    leave_together()
