"""Checkpoint folders that are complete, or recognised as damaged.

A folder is written under another name; every file is flushed; `manifest.json`, written last, holds size and SHA-256 of
each; the folder is renamed. Everything is hashed, not samples of it, for two reasons: one flipped byte of an optimizer
state silently corrupts the rest of a run, and a file with the right hash is the file that this run wrote. The files are
read back in threads while the disk still has them in memory.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

STAGING = ".saving"  # the folder inside output_dir where a checkpoint is written before it is renamed into place
MANIFEST = "manifest.json"
_HASHING_THREADS = 8

Needed = Callable[[dict[str, Any]], Collection[str]]


class DamagedError(ValueError):
    """A checkpoint that differs from what was saved; the message says how."""


def checkpoint_folders(output: Path) -> list[Path]:
    """The `checkpoint-<step>` entries of a folder, by step."""
    found = [
        (int(match[1]), path)
        for path in output.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    return [path for _, path in sorted(found)]


def seal(folder: Path, **facts: Any) -> None:
    """Flush every file of a folder to the disk and write the manifest, last.

    Args:
        folder: a checkpoint, complete but for the manifest.
        facts: JSON values that the manifest is to hold (step, world_size, deepspeed, run).
    """
    flush(folder)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    described = {
        file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": digest}
        for file, digest in zip(files, _hashes(files), strict=True)
    }
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({**facts, "files": described}, indent=1) + "\n")
    _fsync(manifest)
    _fsync(folder)


def flush(folder: Path) -> None:
    """Make all that is in a folder survive a power cut."""
    for path in [*sorted(folder.rglob("*")), folder]:
        _fsync(path)


def verify(folder: Path, run: str, needed: Needed | None = None) -> dict[str, Any]:
    """The manifest of an undamaged checkpoint. Files that it does not list are ignored.

    Args:
        folder: a published checkpoint.
        run: the digest of the run that must have written it.
        needed: manifest -> files that must be there; None: those of `transformers_patch.Trainer`.

    Raises:
        DamagedError: naming the file and its damage.
    """
    manifest = _manifest(folder)
    if manifest["run"] != run:
        raise DamagedError("it is of a run with other settings")
    files = {folder / name: facts for name, facts in manifest["files"].items()}
    lost = sorted(set((needed or _needed)(manifest)) - set(manifest["files"]))
    lost += [path.relative_to(folder).as_posix() for path in files if not path.is_file()]
    if lost:
        raise DamagedError(f"{', '.join(lost)} is missing")
    for path, facts in files.items():
        if path.stat().st_size != facts["size"]:
            raise DamagedError(f"{path.name} has {path.stat().st_size:,} bytes of {facts['size']:,}")
    for (path, facts), digest in zip(files.items(), _hashes(list(files)), strict=True):
        if digest != facts["sha256"]:
            raise DamagedError(f"{path.name} is not the file that was saved")
    return manifest


def publish(staged: Path, final: Path) -> None:
    """Rename a sealed folder."""
    if final.exists():  # a run resumed from an older checkpoint saves this step again
        replaced = staged.with_name(f"{staged.name}.replaced")
        os.replace(final, replaced)
        os.replace(staged, final)
        shutil.rmtree(replaced)
    else:
        os.replace(staged, final)
    _fsync(final.parent)  # older checkpoints are deleted next


def discard(checkpoint: Path, staging: Path) -> None:
    """Delete a checkpoint; a kill leaves no partial checkpoint under its name."""
    doomed = staging / f"{checkpoint.name}.old"
    os.replace(checkpoint, doomed)
    shutil.rmtree(doomed)


def random_state_name(rank: int) -> str:
    """The file of a rank's random state."""
    return f"random_state_{rank}.pt"


def _needed(manifest: dict[str, Any]) -> set[str]:
    """Files required to resume a run exactly. DeepSpeed keeps optimizer and scheduler in its own files."""
    needed = {"trainer_state.json", *(random_state_name(rank) for rank in range(manifest["world_size"]))}
    return needed | ({"latest"} if manifest["deepspeed"] else {"optimizer.pt", "scheduler.pt"})


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():  # also not a pipe, which would never end
        raise DamagedError(f"{MANIFEST} is missing")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        facts = manifest["run"], manifest["world_size"], manifest["deepspeed"], manifest["step"], manifest["files"]
        sound = all(
            isinstance(fact, kind) for fact, kind in zip(facts, (str, int, bool, int, dict), strict=True)
        ) and all(isinstance(f["size"], int) and isinstance(f["sha256"], str) for f in manifest["files"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise DamagedError(f"{MANIFEST} cannot be read")
    return manifest


def _hashes(files: list[Path]) -> list[str]:
    with ThreadPoolExecutor(min(_HASHING_THREADS, os.cpu_count() or 1)) as threads:
        return list(threads.map(_sha256, files))


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
