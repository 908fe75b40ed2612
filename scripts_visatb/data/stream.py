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

# Separator between two records of a JSON list that we write.
BETWEEN = b",\n"

_BLOCK = 2**20
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def file_sizes(paths: list[Path]) -> int:
    """Total size in bytes of the existing files, for a progress bar."""
    return sum(path.stat().st_size for path in paths if path.is_file())


class RecordWriter:
    """Writes records as a JSON list with one record per line, or as JSON Lines.

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
        """Add `count` records that are already encoded and joined as this writer joins them."""
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
    """Yield a writer; its file is replaced when the block succeeds, and unchanged otherwise."""
    with replacing(path) as part, open(part, "wb", buffering=_BLOCK) as stream:
        writer = RecordWriter(stream, lines=str(path).lower().endswith(".jsonl"))
        yield writer
        writer.finish()


def leave_out(problem: InputError, where: str, n: int, record: Record, listing: RecordWriter | None) -> None:
    """Refuse an invalid record, or list it as omitted.

    Args:
        problem: what is wrong with it.
        where: file and record; the problem's message may begin with it.
        n: position in the file.
        record: the record.
        listing: writer of the list (see `visatb.records.omitted_file`); None refuses.
    """
    if listing is None:
        raise InputError(f"{problem} Or omit such records with --omit-broken.")
    reason = str(problem).removeprefix(where).lstrip(": ")
    listing.write({"position": n, "id": record.get("id"), "image": record.get("image"), "reason": reason})
