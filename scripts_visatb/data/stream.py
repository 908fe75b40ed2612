"""Annotation files of any size: records one by one, in and out, in the memory of a few of them.

`stream_records` gives what `visatb.records.read_records` gives, with the same values and refusals. Python's own JSON
scanner is called on a moving window of the text: that is faster than an event parser (on LLaVA's 1.1 GB mix 1.1 s of
every 150,000 records against 1.5 s with ijson's C backend) and cannot differ from `json.loads`.
"""

import codecs
import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from visatb.errors import InputError
from visatb.files import parse_json, replacing
from visatb.records import Record

# Characters. A record that does not end within the limit is a file with a lost quotation mark.
LONGEST_RECORD = 256 * 2**20

# What stands between two records of a JSON list that we write.
BETWEEN = b",\n"

_BLOCK = 2**20
_BLANK = re.compile(r"[ \t\n\r]*")
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def stream_records(path: str | os.PathLike, progress: Callable[[int], Any] | None = None) -> Iterator[Record]:
    """Yield the records of a JSON list or a JSON Lines file (`.jsonl`), unchecked but for being objects.

    Args:
        path: the annotation file.
        progress: called with the number of bytes after each block that was read.

    Raises:
        InputError: missing file, broken JSON (line and column), another shape, no record at all.
    """
    blocks = _blocks(Path(path), progress or (lambda count: None))
    count = 0
    for record in (_lines if str(path).endswith(".jsonl") else _list)(str(path), blocks):
        yield record
        count += 1
    if not count:
        raise InputError(f"{path}: holds no record. Give a file with at least one.")


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
        writer = RecordWriter(stream, lines=str(path).endswith(".jsonl"))
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


def _blocks(path: Path, progress: Callable[[int], Any]) -> Iterator[str]:
    """The text of a UTF-8 file in pieces, without byte order mark, with line ends as `\\n`."""
    utf8 = codecs.getincrementaldecoder("utf-8-sig")()
    text = io.IncrementalNewlineDecoder(utf8, translate=True)
    done = 0
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block at open
            raise InputError(f"{path}: not a regular file. Give the path of a file.")
        with open(path, "rb") as stream:
            while True:
                block = stream.read(_BLOCK)
                held_back = len(utf8.getstate()[0])
                yield text.decode(block, final=not block)
                if not block:
                    return
                done += len(block)
                progress(len(block))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Check the path.") from None
    except UnicodeDecodeError as error:
        byte = done - held_back + error.start
        raise InputError(f"{path}: not UTF-8 at byte {byte}. Save the file as UTF-8.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}. Check the path and its mode.") from None


def _lines(path: str, blocks: Iterator[str]) -> Iterator[Record]:
    rest, n, count = "", 0, 0
    for block in blocks:
        # The last block is empty: what is left then is the last line.
        *lines, rest = (rest + block).split("\n") if block else (rest, "")
        if len(rest) > LONGEST_RECORD:
            raise InputError(f"{path} line {n + 1}: is longer than {LONGEST_RECORD} characters. Write a record a line.")
        for line in lines:
            n += 1
            if not line.strip():
                continue
            record = parse_json(line, f"{path} line {n}")
            if not isinstance(record, dict):
                raise _not_an_object(path, count, line)
            yield record
            count += 1


def _list(path: str, blocks: Iterator[str]) -> Iterator[Record]:
    window = _Window(path, blocks)
    if (start := window.next_character()) != "[":
        if not start:
            raise window.broken("Expecting value", window.position)
        raise InputError(f"{path}: must be a JSON list of records, starts with {start!r}. Wrap the records in [ ].")
    window.position += 1
    count = 0
    follows = window.next_character()
    while follows != "]":
        if follows and follows != "{":
            raise _not_an_object(path, count, window.text[window.position :])
        yield window.value()
        count += 1
        follows = window.next_character()
        if follows == ",":
            window.position += 1
            follows = window.next_character()
            if follows == "]":
                raise window.broken("Expecting value", window.position)
        elif follows != "]":
            raise window.broken("Expecting ',' delimiter", window.position)
    window.position += 1
    if window.next_character():
        raise window.broken("Extra data", window.position)


def _not_an_object(path: str, n: int, text: str) -> InputError:
    return InputError(f"{path}: record {n} must be a JSON object, got {text[:20]!r}. Mend the record.")


class _Window:
    """The part of a JSON text that is being read; `position` is where in `text`."""

    def __init__(self, path: str, blocks: Iterator[str]):
        self.text, self.position = "", 0
        self._path, self._blocks = path, blocks
        self._line, self._column = 1, 1  # of the first character of `text`
        self._scan = json.JSONDecoder(parse_constant=self._refuse_constant).raw_decode

    def next_character(self) -> str:
        """The next character that is not blank, which is not consumed; "" at the end of the file."""
        while True:
            self.position = _BLANK.match(self.text, self.position).end()
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._read_on():
                return ""

    def value(self) -> Any:
        """The object that begins here."""
        while True:
            try:
                value, end = self._scan(self.text, self.position)
            except json.JSONDecodeError as error:
                if self._may_be_cut(error) and self._read_on():
                    continue
                raise self.broken(error.msg, error.pos) from None
            except RecursionError:
                raise InputError(f"{self._here()}: JSON nested too deeply. Flatten it.") from None
            except InputError:
                raise
            except ValueError as error:  # Python refuses integers of thousands of digits
                raise InputError(f"{self._here()}: {error}. Write an ordinary number.") from None
            piece, self.position = self.text[self.position : end], end
            # Only an escape can bring a lone surrogate in; `parse_json` refuses it.
            return parse_json(piece, self._here()) if "\\u" in piece else value

    def broken(self, reason: str, position: int) -> InputError:
        """The error for broken JSON at a position of `text`."""
        line, column = self._place(position)
        at = f"line {line} column {column}"
        return InputError(f"{self._path}: broken JSON at {at}: {reason}. Mend or write the file again.")

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether the end of the window, rather than a mistake, can have caused the error."""
        # A cut string is told by where it began; whatever else is cut is at most as long as an escape or a literal.
        return error.msg.startswith("Unterminated string") or error.pos > len(self.text) - 16

    def _read_on(self) -> bool:
        """Drop what was consumed and at least double the rest; False at the end of the file."""
        rest = self.text[self.position :]
        if len(rest) > LONGEST_RECORD:
            raise InputError(f"{self._here()}: a record does not end within {LONGEST_RECORD} characters. Mend it.")
        self._line, self._column = self._place(self.position)
        self.position = 0
        parts, added = [rest], 0
        for block in self._blocks:
            parts.append(block)
            added += len(block)
            if added > len(rest):
                break
        self.text = "".join(parts)
        return added > 0

    def _place(self, position: int) -> tuple[int, int]:
        breaks = self.text.count("\n", 0, position)
        if breaks:
            return self._line + breaks, position - self.text.rfind("\n", 0, position)
        return self._line, self._column + position

    def _here(self) -> str:
        return f"{self._path} line {self._place(self.position)[0]}"

    def _refuse_constant(self, name: str) -> None:
        raise InputError(f"{self._here()}: {name} is not JSON. Write a finite number or null.")
