"""Atomic file writes, and strict reading of text and JSON files.

Files are written beside the target, flushed to disk and renamed. A kill or a full disk leaves the old file unchanged.
"""

import errno
import fcntl
import glob
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from visatb.errors import InputError
from visatb.json_text import parse_json

_PART = ".part"
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def refuse_unwritable(
    outputs: Iterable[str | os.PathLike | None], inputs: Iterable[str | os.PathLike | None] = ()
) -> None:
    """Refuse output files that cannot be written, or that would replace an input or each other, before any work.

    Args:
        outputs, inputs: paths of files; None is skipped.

    Raises:
        InputError: naming the path.
    """
    taken = {os.path.realpath(path) for path in inputs if path is not None}
    for path in outputs:
        if path is None:
            continue
        place = os.path.realpath(path)
        if not os.fspath(path) or os.path.isdir(place):
            raise InputError(f"{os.fspath(path)!r}: an output must be a file, not a folder. Give a file name.")
        if place in taken:
            raise InputError(f"{path}: is given twice, and would be overwritten. Write to another file.")
        taken.add(place)
        folder = os.path.dirname(place)
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
            state = "is not writable" if os.path.isdir(folder) else "is no folder"
            raise InputError(f"{path}: cannot be written: {folder} {state}. Choose another path.")


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Add the name of the file written in the block to disk errors, such as a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _OF_THE_DISK:
            error.filename = os.fspath(path)
        raise


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success fsync it and rename it to `path`.

    Leftovers of killed processes for the same target are removed first.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*{_PART}"):
        _remove_unless_locked(left)
    with naming(target):
        lock, part = _new_part(target)
    try:
        with naming(target):
            yield part
            with open(part, "rb") as stream:
                os.fsync(stream.fileno())
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, target)
        fsync_folder(target.parent)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename == str(part):
            error.filename = str(target)
        with suppress(FileNotFoundError):
            part.unlink()
        raise
    finally:
        os.close(lock)


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder for temporary files; leftovers of killed processes are removed first.

    Args:
        parent: its parent folder; used by one process at a time.
        prefix: prefix of its name, and of the leftovers to remove.

    Raises:
        InputError: if another process has one there.
    """
    lock = os.open(parent, os.O_RDONLY)
    try:
        for left in parent.glob(f"{glob.escape(prefix)}*") if _locked(lock, parent) else ():
            shutil.rmtree(left)
        with naming(parent), tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as folder, naming(folder):
            yield Path(folder)
    finally:
        os.close(lock)


def _locked(lock: int, folder: Path) -> bool:
    """Whether this process has locked the folder; False on a file system without locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{folder}: another process is writing here. Wait for it or stop it.") from None
    except OSError:
        return False
    return True


def _new_part(target: Path) -> tuple[int, Path]:
    """A new file beside the target, and the descriptor whose lock marks it as in use."""
    while True:
        lock, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=_PART, dir=target.parent)
        with suppress(OSError):  # a file system without locks, where nothing is removed either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(name):  # else another process removed it before it was locked
            return lock, Path(name)
        os.close(lock)


def _remove_unless_locked(part: Path) -> None:
    with suppress(OSError), open(part, "rb+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink()


def fsync_folder(folder: str | os.PathLike) -> None:
    """Make a rename inside the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content: Any, indent: int | None = 1) -> None:
    """Write JSON (UTF-8, no NaN or infinity) atomically."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: str | os.PathLike) -> str:
    """The text of a UTF-8 file; a byte order mark is dropped.

    Raises:
        InputError: if the file is missing, cannot be read, is no regular file or is not UTF-8.
    """
    file = Path(path)
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # a pipe would block at open
            raise InputError(f"{file}: not a regular file. Give the path of a file.")
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{file}: no such file. Check the path.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 at byte {error.start}. Save the file as UTF-8.") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}. Check the path and its permissions.") from None


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file. Raises InputError naming file, line and field or column."""
    return parse_json(read_text(path), str(path))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
