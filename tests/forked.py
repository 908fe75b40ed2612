"""Starts commands and ranks in processes forked from one that has imported, but never used, what they import.

Each start costs 0.1 s of CPU time; a new interpreter takes 4 to 7 s to import torch, transformers and DeepSpeed.
Tests of the start itself, or of a launcher, start an interpreter instead.
"""

import gc
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

from waiting import PATIENCE

from perf.distributed_data import spare_compiling

IMPORTED = {
    "4": ["pytest", "deepspeed", "transformers", "llava.train.training", "llava.train.training_arguments"],
    "5": ["pytest", "deepspeed", "transformers", "visatb_hf.training"],
}
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}  # a GPU that was asked for cannot be used after a fork


class Forked:
    """What `subprocess.Popen` offers, of a Python command: `words` are those behind `python`."""

    def __init__(self, words: list[str], env: Mapping[str, str], cwd: Path):
        self._place = Path(tempfile.mkdtemp())
        self._process = forking().Process(target=_be_command, args=(words, dict(env), cwd, self._place))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit code once it has ended, of a signal its negative number."""
        return self._process.exitcode

    returncode = property(poll)

    def kill(self) -> None:
        """End it and its children, if it has not ended."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)

    def communicate(self, timeout: float = PATIENCE) -> tuple[str, str]:
        """What it printed, once it has ended; one that takes longer than `timeout` seconds is killed."""
        self._process.join(timeout)
        if self.poll() is None:
            self.kill()
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        out, err = ((self._place / name).read_text() for name in ("out", "err"))
        shutil.rmtree(self._place)
        return out, err


def given_by(script: list[str], env: dict[str, str], cwd: Path, variable: str = "PYTHON"):
    """The words and the environment of what a script starts by `exec "$PYTHON" ...`."""
    with tempfile.TemporaryDirectory() as folder:
        python, given = Path(folder, "python"), Path(folder, "given")
        python.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" > {given}.words; env -0 > {given}.env\n")
        python.chmod(0o755)
        done = subprocess.run(script, env={**env, variable: str(python)}, cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr
        words, variables = (Path(f"{given}.{kind}").read_text().split("\0")[:-1] for kind in ("words", "env"))
    return words, dict(line.split("=", 1) for line in variables)


def run_forked(words: list[str], env: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess:
    """As `subprocess.run([sys.executable, *words], ...)`."""
    process = Forked(words, env, cwd)
    out, err = process.communicate()
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def run_ranks(words: list[str], count: int, env: Mapping[str, str], cwd: Path) -> tuple[list[int], str]:
    """Exit codes and stderr of a command as one process, or as ranks none of which ends because another does."""
    ranks = [Forked(words, {**env, **place}, cwd) for place in _places(count)]
    try:
        err = "".join(rank.communicate()[1] for rank in ranks)
    finally:  # ranks that wait for each other
        for rank in ranks:
            rank.kill()
    return [rank.returncode for rank in ranks], err


def run_as_ranks(function: Callable, count: int, *args) -> None:
    """Call `function(rank, *args)` in `count` processes; an error of one ends all and is raised here."""
    from torch.multiprocessing import start_processes

    forking()
    start_processes(_be_rank, args=(_places(count), function, *args), nprocs=count, start_method="forkserver")


def forking():  # noqa: ANN201 - a class of multiprocessing
    """The context whose processes are forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED[version("transformers")[0]])
    with patch.dict(os.environ, ON_CPU):
        forkserver.ensure_running()
    return context


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _places(count: int) -> list[dict[str, str]]:
    """What torch's launcher would add to the environment of each rank."""
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [group | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(count)] if count > 1 else [{}]


def _be_rank(rank: int, places: list[dict[str, str]], function: Callable, *args) -> None:
    _settle()
    os.environ.update(places[rank])
    function(rank, *args)


def _be_command(words: list[str], env: dict[str, str], cwd: Path, place: Path) -> None:
    _settle()
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(env | ON_CPU)
    os.chdir(cwd)
    sys.path[:0] = [folder for folder in env.get("PYTHONPATH", "").split(os.pathsep) if folder]
    is_module = words[0] == "-m"
    sys.argv = list(words[is_module:])
    if is_module:
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")


def _settle() -> None:
    """Be as a new interpreter is."""
    multiprocessing.set_start_method(None, force=True)  # of a DataLoader's workers; it would be forkserver
    gc.freeze()  # DeepSpeed collects garbage for each engine: 0.4 s over all that was imported
    spare_compiling()
