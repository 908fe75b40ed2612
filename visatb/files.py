"""Files that are complete or absent, and JSON that is read with care.

Writing: beside the target, flushed to the disk, renamed. A kill or a full disk leaves the old file as it was.
"""

import json
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from visatb.errors import InputError
from visatb.json_text import parse_json


def refuse_unwritable(
    outputs: Iterable[str | os.PathLike | None], inputs: Iterable[str | os.PathLike | None] = ()
) -> None:
    """Refuse output files that cannot be written, or that would replace an input or each other, before any work.

    Args:
        outputs, inputs: paths of files; None is passed over.

    Raises:
        InputError: naming the path.
    """
    taken = {os.path.realpath(path) for path in inputs if path is not None}
    for path in outputs:
        if path is None:
            continue
        place = os.path.realpath(path)
        if not os.fspath(path) or os.path.isdir(place):
            raise InputError(f"{os.fspath(path)!r}: an output must be a file, not a folder. Give the name of a file.")
        if place in taken:
            raise InputError(f"{path}: is given twice, and would be overwritten. Write to another file.")
        taken.add(place)
        folder = os.path.dirname(place)
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
            state = "is not writable" if os.path.isdir(folder) else "is no folder"
            raise InputError(f"{path}: cannot be written: {folder} {state}. Choose another place.")


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success fsync it and rename it to `path`."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with open(part, "rb") as stream:
            os.fsync(stream.fileno())
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, target)
        fsync_folder(target.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            part.unlink()
        raise


def fsync_folder(folder: str | os.PathLike) -> None:
    """Make a rename inside the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content: Any, indent: int | None = 1) -> None:
    """Write JSON (UTF-8, no NaN or infinity), whole or not at all."""
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
        raise InputError(f"{file}: cannot be read: {error.strerror}. Check the path and its mode.") from None


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file. Raises InputError naming file, line and field or column."""
    return parse_json(read_text(path), str(path))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
