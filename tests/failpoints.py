"""Runs of a very small model that are killed at a write point, or whose disk is full; each in a forked process.

    python tests/failpoints.py kills FOLDER      # SIGKILL at each write point, then the same run again
    python tests/failpoints.py disk FOLDER       # files may not grow beyond one size after another

Prints one JSON line. Write points are found by Python's audit events (open for writing, mkdir, rename, remove, rmdir)
and by wrapping what writes without them, torch.save and safetensors: once before, once after half of the file. What
fsync does a kill cannot show.
"""

import functools
import gc
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
import transformers
from sentences import make_trainer
from transformers import modeling_utils

from llava.train.run_folder import RunFolder
from llava.train.train import run_to_the_end
from transformers_patch import EqualWeighting
from visatb.cli import run

AUDITED = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}


class Failpoint:
    """Counts write points once it is armed, and kills the process at the n-th; n = 0 only counts."""

    def __init__(self, n: int = 0):
        self.n, self.count, self.armed = n, 0, False

    def arm(self) -> None:
        self.armed = True

    def install(self) -> None:
        sys.addaudithook(self._audit)
        torch.save = self._halved(torch.save, path_at=1)
        modeling_utils.safe_save_file = self._halved(safetensors.torch.save_file, path_at=1)

    def _hit(self, prepare: Callable[[], None] = lambda: None) -> None:
        if not self.armed:
            return
        self.count += 1
        if self.count == self.n:
            self.armed = False
            prepare()
            os.kill(os.getpid(), signal.SIGKILL)

    def _audit(self, event: str, args: tuple) -> None:
        if event in AUDITED or event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
            self._hit()

    def _halved(self, function: Callable, path_at: int) -> Callable:
        def wrapped(*args, **kwargs):
            self._hit()
            result = function(*args, **kwargs)
            path = getattr(args[path_at], "name", args[path_at])
            self._hit(lambda: os.truncate(path, os.path.getsize(path) // 2))
            return result

        return wrapped


class AtFirstStep(transformers.TrainerCallback):
    """Does something at the end of the first step a run takes."""

    def __init__(self, work: Callable[[], None]):
        self.work = work

    def on_step_end(self, args, state, control, **kwargs):
        self.work()


def run_once(output: Path, at_first_step: Callable[[], None] = lambda: None, **arguments) -> int:
    """What llava.train.train does, with a model and data that need no files; returns the exit code."""
    folder = RunFolder(str(output), {"lr": 1e-2})
    if folder.open():
        return 0
    checkpoint = folder.newest_checkpoint()
    settings = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1, "max_steps": 5, "no_cuda": True}
    settings |= {"per_device_train_batch_size": 8, "save_safetensors": True} | arguments
    weighter = EqualWeighting(3, (0.6, 1.7, 1.1))
    trainer = make_trainer(output, weighter, callbacks=[AtFirstStep(at_first_step)], **settings)
    trainer.vocabulary_grew = False
    trainer.run_digest = folder.digest
    folder.begin()
    (output.parent / "began").write_text(str(checkpoint))
    code = run_to_the_end(trainer, checkpoint)
    if not code:
        folder.finish()
    folder.close()
    return code


def in_child(work: Callable[[], int]) -> tuple[int, str]:
    """Exit status (as `os.waitstatus_to_exitcode` has it) and output of `work` in a forked process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.close(writing)
        code = 70
        try:
            run(work)
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    with open(reading) as stream:
        said = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def prepare(place: Path) -> tuple[Path, Path]:
    """A finished run (run here: what it imports and caches, forked processes have), and one cut at its first save."""
    whole, cut = place / "whole", place / "cut"
    assert run_once(whole) == 0

    def end() -> None:
        if list(cut.glob("checkpoint-*")):
            os._exit(0)

    gc.collect()
    gc.freeze()
    assert in_child(lambda: run_once(cut, end))[0] == 0
    return whole, cut


def kills(place: Path) -> dict:
    """Kill a run that has a checkpoint at every write point of the next save and the final one; run again; compare."""
    whole, cut = prepare(place)
    output, count = place / "killed", Failpoint()

    def counted() -> int:
        code = run_once(output, count.arm)
        (place / "count").write_text(str(count.count))
        return code

    count.install()
    shutil.copytree(cut, output)
    assert in_child(counted)[0] == 0
    points, wrong = int((place / "count").read_text()), []
    for n in range(1, points + 1):
        shutil.rmtree(output)
        shutil.copytree(cut, output)
        count.n = n
        killed, _ = in_child(lambda: run_once(output, count.arm))
        (place / "began").unlink()
        again, said = in_child(lambda: run_once(output))
        # A kill before the older checkpoint was deleted leaves it to the next save, which this run has none of.
        left = {name for name in names(output) if not name.startswith("checkpoint-2")}
        problems = {
            "not killed": killed != -signal.SIGKILL,
            f"ended with {again}: {said[-500:]}": again != 0,
            "another model": again == 0 and digest(output) != digest(whole),
            f"left over: {left - names(whole)}": again == 0 and left != names(whole),
            "started anew": (place / "began").exists() and (place / "began").read_text() == "None",
        }
        wrong += [[n, what] for what, is_so in problems.items() if is_so]
    return {"points": points, "wrong": wrong}


def disk(place: Path) -> dict:
    """Refuse to let files grow beyond one size after another; then run again without that limit."""
    whole, cut = prepare(place)
    sizes = {path.stat().st_size for path in whole.rglob("*") if path.is_file()}
    message, wrong = [], []
    output = place / "full"
    for settings in ({}, {"save_strategy": "no"}):
        for size in [size for size in sorted(sizes)[:-1] if size > 1000]:  # below, not even the log can be written
            shutil.copytree(cut, output)
            limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
            code, said = in_child(lambda: run_once(output, limit, **settings))  # noqa: B023 - runs at once
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            message += errors
            left = {path.name for path in output.iterdir()}
            whole_left = {"checkpoint-2", "visatb_run.json"} <= left and not list(output.glob(".saving/*"))
            if code:
                wrong += [[size, code, said]] * (code != 1 or len(errors) != 1 or "Traceback" in said)
                wrong += [[size, sorted(left)]] * (not whole_left or "model.safetensors" in left)
            again, said = in_child(lambda: run_once(output))
            wrong += [[size, "again", said]] * (again != 0 or digest(output) != digest(whole))
            shutil.rmtree(output)
    return {"message": message, "wrong": wrong}


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps({"kills": kills, "disk": disk}[sys.argv[1]](folder)))
