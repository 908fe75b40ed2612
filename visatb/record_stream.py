"""Streams the records of annotation files of any size, keeping only a few in memory.

Python's own JSON scanner is called on a moving window of the text: that is faster than an event parser (on LLaVA's
1.1 GB mix 1.1 s per 150,000 records against 1.5 s with ijson's C backend) and cannot differ from `json.loads`.
The content of a file decides whether it is a JSON list or JSON Lines, not its name.
"""

import codecs
import io
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from visatb.errors import InputError, shown
from visatb.json_text import UnsoundJsonError, find_fault, scan

Record = dict[str, Any]

# Characters. A record that does not end within the limit indicates a missing quotation mark.
LONGEST_RECORD = 256 * 2**20

_BLOCK = 2**20
_BLANK = re.compile(r"[ \t\n\r]*")
_TO_NEXT = {"]": re.compile(r"[ \t\n\r]*,[ \t\n\r]*(?=\{)"), "": re.compile(r"[ \t\n\r]*(?=\{)")}
_YAML = re.compile(r"(?:#.*\n|---[ \t]*\n|\s)*(?:- |[\w\"'./-]+:(?:[ \t\n]|$))")
_scan_again = json.JSONDecoder().raw_decode
_GIT_LFS = "version https://git-lfs"
_MAGIC = {
    b"\x1f\x8b": "a gzip archive. Unpack it",
    b"PK\x03\x04": "a zip archive. Unpack it",
    b"PAR1": "a Parquet table. Convert it to a JSON list of records (docs/data.md)",
    b"ARROW1": "an Arrow table. Convert it to a JSON list of records (docs/data.md)",
}


def stream_records(
    path: str | os.PathLike, progress: Callable[[int], Any] | None = None, again: bool = False
) -> Iterator[Record]:
    """Yield the records of a JSON list or of JSON Lines; only their type (object) is checked.

    Args:
        path: the annotation file.
        progress: called with the number of bytes after each block that was read.
        again: the file has been read before, so the checks of `visatb.json_text` are skipped: 1.5 times as fast.

    Raises:
        InputError: missing file, broken JSON (line and column), what `visatb.json_text` refuses (record, line and
            field), another shape, no record at all.
    """
    blocks = _blocks(Path(path), progress or (lambda count: None))
    yield from _all(_Window(str(path), blocks, _scan_again if again else scan))


def stream_spans(
    path: str | os.PathLike, progress: Callable[[int], Any] | None = None
) -> Iterator[tuple[Record, int, int]]:
    """Yield the records as `stream_records` does, with the bytes of the file that each stands in: [start, end)."""
    blocks = _blocks(Path(path), progress or (lambda count: None), translate=False)
    window = _Window(str(path), blocks, scan, len(codecs.BOM_UTF8) if _has_mark(path) else 0)
    for record in _all(window):
        yield record, *window.span()


def _has_mark(path: str | os.PathLike) -> bool:
    """Whether a file begins with a byte order mark."""
    if not os.path.isfile(path):  # opening a pipe would block
        return False
    with open(path, "rb") as stream:
        return stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8


def name_of(record: Record, position: int) -> str:
    """The name of a record in messages: its id, else its position in the file."""
    identifier = record.get("id")
    return f"record {position}" if identifier is None else f"record {position} (id {shown(identifier)})"


def _all(window: "_Window") -> Iterator[Record]:
    """The records of a file, whose content says whether it is a list or JSON Lines."""
    start = window.next_character()
    if start == "[":
        window.position += 1
        yield from _records(window, "]")
        window.position += 1
        if window.next_character():
            raise window.broken("Extra data", window.position)
    elif start == "{":
        yield from _records(window, "")
    else:
        raise _no_records(window.path, window.text)
    if not window.count:
        raise InputError(f"{window.path}: has no records. Give a file with at least one.")


def _records(window: "_Window", end: str) -> Iterator[Record]:
    """The records up to the closing character: `]` for a list, none for JSON Lines."""
    to_next = _TO_NEXT[end]
    follows = window.next_character()
    while follows != end:
        record = window.record(follows)
        window.count += 1
        if not end and window.count == 1 and not window.next_character():
            _refuse_single(window.path, record)
        yield record
        if match := to_next.match(window.text, window.position):
            window.position = match.end()
            follows = "{"
            continue
        follows = window.next_character()
        if end and follows == ",":
            window.position += 1
            follows = window.next_character()
            if follows == end:
                raise window.broken("Expecting value", window.position)
        elif end and follows != end:
            raise window.broken("Expecting ',' delimiter", window.position)


def _refuse_single(path: str, content: Record) -> None:
    """Refuse a file that is a single object, unless it is a record."""
    if "conversations" in content or path.lower().endswith(".jsonl"):
        return
    for key, value in content.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            raise InputError(
                f"{path}: is an object around a list: {shown(key)} has {len(value)} objects. Save only that list."
            )
    keys = shown(", ".join(content))
    raise InputError(
        f"{path}: must be a list of records, got an object with the keys {keys}. Wrap a record in [ ]; of a file that "
        "names annotation files, give those."
    )


def _no_records(path: str | os.PathLike, text: str) -> InputError:
    """The error for a file that starts with neither a list nor an object."""
    rest = text.lstrip()
    if not rest:
        return InputError(f"{path}: is empty. Give a file with at least one record.")
    if text.startswith(_GIT_LFS):
        return InputError(f"{path}: is a Git LFS pointer, not the file. Run git lfs pull.")
    if _YAML.match(text):
        remedy = "If it lists the files of a mix, pass those, or one file with all of their records"
        return InputError(f"{path}: is YAML, and must be a JSON list of records or JSON Lines. {remedy}.")
    remedy = "Convert it (docs/preparing_data.md)" if Path(path).suffix in (".csv", ".tsv") else "Write records in [ ]"
    return InputError(f"{path}: must be a JSON list of records, starts with {rest[:20]!r}. {remedy}.")


def _refuse_other_formats(path: Path, start: bytes) -> None:
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            raise InputError(f"{path}: is {kind}.")


def _blocks(path: Path, progress: Callable[[int], Any], translate: bool = True) -> Iterator[str]:
    """The text of a UTF-8 file in pieces, without byte order mark; with line ends as `\\n` unless they must count."""
    utf8 = codecs.getincrementaldecoder("utf-8-sig")()
    text = io.IncrementalNewlineDecoder(utf8, translate=translate)
    done = 0
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block
            raise InputError(f"{path}: not a regular file. Give the path of a file.")
        with open(path, "rb") as stream:
            while True:
                block = stream.read(_BLOCK)
                if not done:
                    _refuse_other_formats(path, block)
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


class _Window:
    """The part of a JSON text that is being read.

    Attributes:
        path: the file, for messages.
        text, position: the part, and the current position in it.
        count: records read so far.
    """

    def __init__(self, path: str, blocks: Iterator[str], scan: Callable[[str, int], tuple[Any, int]], mark: int = 0):
        self.text, self.position = "", 0
        self.path, self.count = path, 0
        self._blocks, self._scan = blocks, scan
        self._line, self._column = 1, 1  # of the first character of `text`
        self._start = 0  # of the last record
        self._counted, self._bytes = 0, mark  # a position in `text`, and the bytes of the file before it

    def next_character(self) -> str:
        """The next non-whitespace character, not consumed; "" at the end of the file."""
        while True:
            self.position = _BLANK.match(self.text, self.position).end()
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._read_on():
                return ""

    def span(self) -> tuple[int, int]:
        """The bytes of the last record, [start, end), if the text is not translated; called after each record."""
        start = self._bytes + len(self.text[self._counted : self._start].encode())
        end = start + len(self.text[self._start : self.position].encode())
        self._counted, self._bytes = self.position, end
        return start, end

    def record(self, start: str) -> Record:
        """The object that begins here, with the character `start`."""
        while True:
            try:
                value, end = self._scan(self.text, self.position)
            except json.JSONDecodeError as error:
                if self._may_be_cut(error) and self._read_on():
                    continue
                raise self.broken(error.msg, error.pos) from None
            except UnsoundJsonError:
                raise self._unsound() from None
            if start != "{":
                got = shown(self.text[self.position : end])
                raise InputError(f"{self.path}: record {self.count} must be a JSON object, got {got}. Correct it.")
            self._start, self.position = self.position, end
            return value

    def broken(self, reason: str, position: int) -> InputError:
        """The error for broken JSON at a position of `text`."""
        line, column = self._place(position)
        at = f"line {line} column {column}"
        return InputError(f"{self.path}: broken JSON at {at}: {reason}. Correct or write the file again.")

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether the error may be caused by the end of the window rather than by invalid JSON."""
        # A truncated string is reported at its start; any other truncated token is at most as long as an escape or
        # literal.
        return error.msg.startswith("Unterminated string") or error.pos > len(self.text) - 16

    def _read_on(self) -> bool:
        """Drop the consumed text and at least double the rest; False at the end of the file."""
        rest = self.text[self.position :]
        if len(rest) > LONGEST_RECORD:
            raise InputError(
                f"{self.path}: {name_of({}, self.count)} (line {self._line}) does not end within {LONGEST_RECORD} "
                "characters. Look for a missing quotation mark or bracket."
            )
        parts, added = [rest], 0
        for block in self._blocks:
            parts.append(block)
            added += len(block)
            if added > len(rest):
                break
        if added:
            self._line, self._column = self._place(self.position)
            self._bytes += len(self.text[self._counted : self.position].encode())
            self._counted = 0
            self.text, self.position = "".join(parts), 0
        return added > 0

    def _place(self, position: int) -> tuple[int, int]:
        breaks = self.text.count("\n", 0, position)
        if breaks:
            return self._line + breaks, position - self.text.rfind("\n", 0, position)
        return self._line, self._column + position

    def _unsound(self) -> InputError:
        """The error for the record that begins here, whose JSON is refused."""
        fault = find_fault(self.text, self.position)
        line, field = self._place(fault.position)[0], f"{fault.field}: " if fault.field else ""
        return InputError(f"{self.path}: {self._name()}: line {line}: {field}{fault.rule}")

    def _name(self) -> str:
        """The name of a record whose JSON is refused, with its id if it can be read."""
        while True:
            try:
                return name_of(json.JSONDecoder().raw_decode(self.text, self.position)[0], self.count)
            except json.JSONDecodeError as error:
                if not (self._may_be_cut(error) and self._read_on()):
                    return name_of({}, self.count)
            except (RecursionError, ValueError, AttributeError):  # too deep, too long a number, no object
                return name_of({}, self.count)
