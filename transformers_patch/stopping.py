"""Signals that request a stop: the run completes its step and saves.

SIGTERM is what Slurm, a launcher or `kill` sends; SIGINT is Ctrl-C.
"""

import os
import random
import signal
import threading
import time
from types import FrameType
from typing import Self

import numpy as np
import torch

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A launcher forwards its signal, and Slurm signals launcher and workers alike: these are one request.
SAME_WISH_S = 3.0


class NonFiniteLossError(RuntimeError):
    """The loss or the gradient of a step is NaN or infinite (with fp16: of 17 steps in a row).

    Raised on all ranks, before anything of the step is saved.
    """


class StopSignals:
    """In this context the first signal is only recorded; another one seconds later ends the process immediately.

    Attributes:
        received: the first signal's number; 0 before.
    """

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0

    def __enter__(self) -> Self:
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # the only one that may set handlers
            self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if not self.received:
            self.received, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > SAME_WISH_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def start_worker(worker_id: int) -> None:
    """Set up a DataLoader worker: its own seeds, and stop signals ignored except from its parent.

    Ctrl-C and Slurm signal every process; a worker that died of it would lose its batch and end the training.
    """
    seed = torch.initial_seed() % 2**32  # which torch has made from the worker's number
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo(STOP_SIGNALS).si_pid != os.getppid():
        pass
    os._exit(0)
