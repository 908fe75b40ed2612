"""Annotation files of any size, written record by record (`visatb.record_stream` reads them)."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from visatb.errors import InputError
from visatb.files import replacing
from visatb.records import Record

# What stands between two records of a JSON list that we write.
BETWEEN = b",\n"

_BLOCK = 2**20
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def file_sizes(paths: list[Path]) -> int:
    """Bytes of the files that are there, for a progress bar."""
    return sum(path.stat().st_size for path in paths if path.is_file())


class RecordWriter:
    """Writes records as a JSON list with one record a line, or as JSON Lines.

    Attributes:
        count: records written so far.
    """

    def __init__(self, stream: BinaryIO, lines: bool = False):
        self.count = 0
        self._stream = stream
        self._digest = hashlib.sha256()
        self._start, self._between, self._end = (b"", b"\n", b"\n") if lines else (b"[\n", BETWEEN, b"\n]\n")

    def write(self, record: Record) -> None:
        """Add one record."""
        self.write_encoded(encode(record), 1)

    def write_encoded(self, data: bytes, count: int) -> None:
        """Add `count` records that are encoded, and joined as this writer joins them, already."""
        self._put(self._between if self.count else self._start)
        self._put(data)
        self.count += count

    def finish(self) -> None:
        """Close the list; without a record it is empty."""
        self._put(self._end if self.count else self._start + self._end)

    @property
    def sha256(self) -> str:
        """SHA-256 of what was written."""
        return self._digest.hexdigest()

    def _put(self, data: bytes) -> None:
        self._digest.update(data)
        self._stream.write(data)


def encode(record: Record) -> bytes:
    """A record as one line of UTF-8 JSON."""
    return _ENCODER.encode(record).encode()


@contextmanager
def writing_records(path: str | os.PathLike) -> Iterator[RecordWriter]:
    """Yield a writer whose file is there, whole, once the block has ended well, and else as it was before."""
    with replacing(path) as part, open(part, "wb", buffering=_BLOCK) as stream:
        writer = RecordWriter(stream, lines=str(path).lower().endswith(".jsonl"))
        yield writer
        writer.finish()


def leave_out(problem: InputError, where: str, n: int, record: Record, listing: RecordWriter | None) -> None:
    """Refuse a broken record, or list it as left out.

    Args:
        problem: what is wrong with it.
        where: file and record, with which the problem's message may begin.
        n: its position in the file.
        record: the record.
        listing: writer of the list (see `visatb.records.omitted_file`); None refuses.
    """
    if listing is None:
        raise InputError(f"{problem} Or leave such records out with --omit-broken.")
    reason = str(problem).removeprefix(where).lstrip(": ")
    listing.write({"position": n, "id": record.get("id"), "image": record.get("image"), "reason": reason})
