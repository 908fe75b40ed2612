"""The end of a run on several ranks (gloo)."""

import os
import socket
import time

import torch
import torch.multiprocessing

from llava.train.run_folder import leave_together

LATE_S = 1.0


def end_as_rank(rank, port, folder):
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= address | {"RANK": str(rank), "WORLD_SIZE": "2"}
    torch.distributed.init_process_group("gloo")
    if rank == 1:
        time.sleep(LATE_S)
        (folder / "written").touch()
    leave_together()
    assert not torch.distributed.is_initialized()
    assert (folder / "written").exists()


def test_no_rank_ends_before_the_last_one_has_written(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(end_as_rank, args=(port, tmp_path), nprocs=2)


def test_a_single_process_ends_without_a_group():
    leave_together()
