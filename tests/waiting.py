"""Waiting for what another process does."""

import time
from collections.abc import Callable

PATIENCE = 300  # seconds; they guard against waiting for ever, and a slow machine must not need them


def until(happened: Callable[[], object], process=None, pause: float = 0.01) -> None:
    """Wait until something is so; fails if the process (as of `subprocess`) that should do it ends first."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(pause)
