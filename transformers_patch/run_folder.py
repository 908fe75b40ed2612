"""The output folder of a training run: which run it belongs to, whether it is finished, where to resume.

`visatb_run.json` has a fingerprint of everything that affects the result. A folder of another run is refused; a
finished one is not changed; an unfinished one resumes from its newest complete checkpoint.
"""

import fcntl
import gc
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils import broadcast_object_list

from transformers_patch.publish import STAGING, DamagedError, Needed, checkpoint_folders, verify
from visatb.cli import EXIT_INPUT
from visatb.errors import InputError
from visatb.files import read_json, write_json
from visatb.sampling import PROPORTIONAL

RUN_FILE = "visatb_run.json"
LOG_FILE = "train_log.jsonl"
CONTENT = "_content"
_RESULTS = ("model*.safetensors*", "pytorch_model*.bin*", "mm_projector.bin", "trainer_state.json")
_RESULTS += ("adapter_config.json", "adapter_model.*", "non_lora_trainables.bin", "visatb_base.json")

_BEFORE_THERE_WAS = {
    "padded_batches": True,
    "task_sampling": PROPORTIONAL,
}  # settings of runs that began before they could be set
# (before, now) of settings whose change does not affect the steps so far: "fail" has substituted no record.
_BAD_IMAGE = "bad_image"
_ALLOWED_BAD_IMAGE = {("fail", "skip"), ("fail", "replace"), ("skip", "replace"), ("replace", "skip")}

T = TypeVar("T")


class RunFolder:
    """One output folder, locked while this process lives. Rank 0 alone opens and writes it (see `on_first_rank`).

    Args:
        path: the folder; created if missing.
        fingerprint: what affects the result, by name.
    """

    def __init__(self, path: str, fingerprint: dict[str, Any]):
        self.path = Path(path)
        self._fingerprint = fingerprint

    def open(self, overwrite: bool = False) -> bool:
        """Lock the folder; returns whether its run is finished.

        Args:
            overwrite: discard an earlier run in the folder.

        Raises:
            InputError: the folder is in use, has other content, or belongs to a run with other settings.
        """
        self._refuse_foreign()
        self._is_new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked()
        if overwrite:
            self._forget()
        finished = self._check_owner()
        if not finished:
            shutil.rmtree(self.path / STAGING, ignore_errors=True)
            for part in (*self.path.glob(f".{RUN_FILE}.*.part"), *self.path.glob(f"{LOG_FILE}.part")):
                part.unlink()
        return finished

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def leave(self) -> None:
        """Remove what `open` created, unless a run has started here. The lock is held until the process ends."""
        if [file.name for file in self.path.iterdir()] != [".lock"]:
            return
        (self.path / ".lock").unlink()
        if self._is_new:
            self.path.rmdir()

    @property
    def digest(self) -> str:
        """The digest that marks this run's checkpoints."""
        lasting = self._fingerprint | {_BAD_IMAGE: "fail"}  # the one setting that may change between two checkpoints
        return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()

    def begin(self) -> None:
        """Claim the folder for this run: after loading its model, so that a failed start claims nothing."""
        self._write(finished=False)

    def newest_checkpoint(
        self, world_size: int = 1, deepspeed: bool = False, needed: Needed | None = None
    ) -> str | None:
        """The newest complete checkpoint of this run; None if there are no checkpoints.

        Newer ones that are not complete are reported in one line each and renamed to `damaged-checkpoint-N`.

        Args:
            world_size, deepspeed: how this call of the run is split; DeepSpeed's state fits no other split.
            needed: as for `verify`.

        Raises:
            InputError: there are checkpoints but none is complete (starting again at step 0 must be requested), or the
                newest complete one needs another launcher.
        """
        damaged: dict[Path, str] = {}
        for path in reversed(checkpoint_folders(self.path)):
            try:
                manifest = verify(path, self.digest, needed)
            except DamagedError as error:
                damaged[path] = str(error)
            except OSError as error:
                damaged[path] = f"{error.filename} cannot be read ({error.strerror})"
            else:
                _refuse_other_split(path, manifest, world_size, deepspeed)
                for other, problem in damaged.items():
                    _put_aside(other, problem, path)
                return str(path)
        if damaged:
            problems = "; ".join(f"{path.name}: {problem}" for path, problem in damaged.items())
            raise InputError(
                f"{self.path}: no checkpoint is complete ({problems}). Restore one, or set --overwrite_output_dir True "
                "to start again at step 0."
            )
        return None

    def finish(self, **facts: Any) -> None:
        """Mark the run finished and record facts about it (steps, seconds, ...)."""
        self._write(finished=True, **facts)

    def _write(self, **content: Any) -> None:
        write_json(self.path / RUN_FILE, {"fingerprint": self._fingerprint, **content})

    def _refuse_foreign(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: output_dir must be a folder. Choose another --output_dir.")
        ours = (".lock", f".{RUN_FILE}.")  # what a kill before the first write of RUN_FILE leaves
        foreign = [p.name for p in self.path.glob("*") if not p.name.startswith(ours)]
        if foreign and not (self.path / RUN_FILE).exists():
            raise InputError(
                f"{self.path}: output_dir has other content ({', '.join(sorted(foreign)[:3])}). "
                "Choose an empty --output_dir."
            )

    def _locked(self) -> Any:
        stream = open(self.path / ".lock", "w")  # noqa: SIM115 - held until the process ends
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{self.path}: another process is training into this folder. Wait or stop it.") from None
        return stream

    def _forget(self) -> None:
        """Delete the files of an earlier run, RUN_FILE last: until then the folder is recognised as ours."""
        if (self.path / RUN_FILE).exists():
            self._write(finished=False)  # a kill in between must not leave a finished run without its model
        for pattern in ("checkpoint-*", "damaged-checkpoint-*"):
            for checkpoint in self.path.glob(pattern):
                shutil.rmtree(checkpoint)
        for pattern in (*_RESULTS, LOG_FILE, RUN_FILE):
            for file in self.path.glob(pattern):
                file.unlink()

    def _check_owner(self) -> bool:
        file = self.path / RUN_FILE
        if not file.exists():
            return False
        earlier = read_json(file)
        if not isinstance(earlier, dict) or not isinstance(earlier.get("fingerprint"), dict):
            raise InputError(
                f"{file}: not a run record. Choose another --output_dir or set --overwrite_output_dir True."
            )
        before, now = earlier["fingerprint"], self._fingerprint
        if (before.get(_BAD_IMAGE), now.get(_BAD_IMAGE)) in _ALLOWED_BAD_IMAGE:
            before = before | {_BAD_IMAGE: now[_BAD_IMAGE]}
        known = _BEFORE_THERE_WAS | before
        differing = [key for key in sorted({*before, *now}) if known.get(key) != now.get(key)]
        if differing:
            changes = "; ".join(_difference(key, known.get(key), now.get(key)) for key in differing)
            raise InputError(
                f"{self.path}: output_dir belongs to a run with other settings ({changes}). "
                "Restore them to resume it, choose another --output_dir, or start over: --overwrite_output_dir True."
            )
        self._fingerprint = before  # 3 and 3.0 are one setting, but not one digest
        return bool(earlier.get("finished"))


def on_first_rank(args: Any, work: Callable[[], T]) -> T:
    """Run `work` on rank 0 and return its result on all ranks (call it on all; the value must be picklable).

    Raises:
        InputError, OSError: those of `work`, on rank 0; the other ranks exit silently.
    """
    outcome: list[Any] = [None, None]
    problem = None
    if args.process_index == 0:
        try:
            outcome[0] = work()
        except (InputError, OSError) as error:
            problem = error
            outcome[1] = type(error).__name__
    if args.world_size > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        leave_together()
    if problem is not None:
        raise problem
    if outcome[1] is not None:
        sys.exit(EXIT_INPUT)
    return outcome[0]


def leave_together() -> None:
    """Wait for all ranks and close the process group; the last call of a rank before it ends (call it on all).

    Without it the first rank to exit ends the others: the launcher stops them while they still write, and the threads
    of an open group abort a process whose peer has exited.
    """
    if not torch.distributed.is_initialized():
        return
    gc.collect()  # a wrapped model, full of cycles, keeps the group's threads alive
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _refuse_other_split(path: Path, manifest: dict[str, Any], world_size: int, deepspeed: bool) -> None:
    before, now = (manifest["deepspeed"], manifest["world_size"]), (deepspeed, world_size)
    if before[0] != now[0] or (deepspeed and before[1] != now[1]):
        how = [f"{'DeepSpeed' if ds else 'no DeepSpeed'} on {n} process{'es' * (n > 1)}" for ds, n in (before, now)]
        raise InputError(f"{path}: was saved by {how[0]}, this is {how[1]}. Start it as before.")


def _put_aside(path: Path, problem: str, used: Path) -> None:
    """Rename a checkpoint, so that it conflicts neither with a new one nor with --save_total_limit."""
    aside = path.with_name(f"damaged-{path.name}")
    if aside.exists():
        shutil.rmtree(aside)
    path.rename(aside)
    print(f"warning: {path}: {problem}; renamed to {aside.name}, resuming from {used.name}.", file=sys.stderr)


def _difference(key: str, before: Any, now: Any) -> str:
    if key.endswith(CONTENT):
        return f"the files of {key.removesuffix(CONTENT)}"
    return "the records of data_path" if key == "data" else f"{key} {before!r} -> {now!r}"


def deepspeed_settings(file: str | None) -> Any:
    """A DeepSpeed file without ZeRO's memory settings: a run that ran out of memory may resume with offloading."""
    if not file:
        return None
    settings = read_json(file)
    zero = settings.get("zero_optimization") if isinstance(settings, dict) else None
    return settings | {"zero_optimization": zero.get("stage")} if isinstance(zero, dict) else settings


def sha256_of_file(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_of(path: str | None) -> Any:
    """Sizes and, of small files, hashes of a local file or folder; None for a Hub name.

    Large weights are compared by size and modification time: hashing gigabytes would take minutes.
    """
    if path is None or not os.path.exists(path):
        return None
    root = Path(path)
    files = [root] if root.is_file() else sorted(p for p in root.iterdir() if p.is_file() and p.name[0] != ".")
    small = 64 * 2**20
    return {
        file.name: sha256_of_file(file)
        if file.stat().st_size <= small
        else [file.stat().st_size, file.stat().st_mtime_ns]
        for file in files
        if file.name not in (RUN_FILE, LOG_FILE)
    }


def plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(getattr(value, "value", value))
