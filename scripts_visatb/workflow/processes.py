"""Processes that end together, with the help of the Linux kernel; on other systems at most signals are set."""

import ctypes
import platform
import signal

# From <linux/prctl.h>.
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies; and let SIGINT end it.

    A shell starts background commands (`&`) with SIGINT ignored, and snakemake would inherit that.

    Snakemake ends with the process that a user sees, and its steps notice that and end too (see job.py), so that a
    killed run leaves no process behind.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Ask the kernel to make this process the parent of descendants whose own parent has ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if platform.system() == "Linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value)
