"""Answers on the disk: appended as they are made, found again after a kill, merged into one file when all are there.

Beside the final file lies `work/<its stem>.<key>/`, where the key is made from the content of everything the answers
depend on (see fingerprint.py):

    made_from.json      what the key stands for
    <part>.jsonl        one line per question, appended and flushed to the disk batch by batch; one part per process
    complete.json       SHA-256 of the final file, written after it; its presence says "done"

A line is {"position": n, "text": "..."}, {"position": n, "bad_image": "why"} or {"position": n, "failed": "why"}.
Whoever writes the last missing answer writes the final file, under a lock; that may be any chunk or rank. Needs no
torch.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.generate.fingerprint import key_of
from visatb.errors import InputError
from visatb.files import fsync_folder, naming, parse_json, read_json, write_json, write_text

WORK = "work"


@dataclass(frozen=True)
class Answer:
    """What became of one question.

    Attributes:
        position: of the question in its file.
        text: the answer; None if there is none.
        bad_image: why its image could not be read.
        failed: why generation failed.
    """

    position: int
    text: str | None = None
    bad_image: str | None = None
    failed: str | None = None

    def line(self) -> str:
        """The line of the work file."""
        content = {k: v for k, v in vars(self).items() if v is not None}
        return json.dumps(content, ensure_ascii=True) + "\n"

    def settles(self, skip_bad_images: bool) -> bool:
        """Whether the question need not be asked again."""
        return self.text is not None or (skip_bad_images and self.bad_image is not None)


class Work:
    """The unfinished and the finished answers of one question file."""

    def __init__(self, final: Path, made_from: dict[str, Any]):
        """Name the work; nothing is written.

        Args:
            final: the answer file to be.
            made_from: JSON content; everything the final file's bytes depend on.
        """
        self.final = final
        self.made_from = made_from
        self.folder = final.parent / WORK / f"{final.stem}.{key_of(made_from)}"

    def complete(self) -> bool:
        """Whether the final file is there and is the one made from exactly this."""
        note = self.folder / "complete.json"
        if not note.is_file() or not self.final.is_file():
            return False
        return read_json(note).get("sha256") == _sha256(self.final)

    def omitted(self) -> int:
        """How many records the complete final file lacks."""
        return int(read_json(self.folder / "complete.json").get("omitted", 0))

    def refuse_foreign(self, remedy: str) -> None:
        """Raise InputError if the final file is there and was not made from this; `remedy` ends the message."""
        if self.final.exists() and not self.complete():
            raise InputError(f"{self.final}: exists and was made by {self._maker()}. {remedy}")

    def answers(self) -> dict[int, Answer]:
        """All answers in the work folder by position; a text wins over a failure."""
        found: dict[int, Answer] = {}
        for part in sorted(self.folder.glob("*.jsonl")):
            with open(part, "rb") as stream:
                for answer in _valid_answers(stream.read()):
                    known = found.get(answer.position)
                    if known is None or known.text is None:
                        found[answer.position] = answer
        return found

    @contextmanager
    def writing(self, part: str) -> Iterator["Writer"]:
        """Open this process's part for appending.

        Raises:
            InputError: if another process is writing it.
        """
        self._make_folder()
        path = self.folder / f"{part}.jsonl"
        with open(path, "ab+") as stream:
            if not _lock(stream, wait=False):
                raise InputError(f"{path}: another process is writing these answers. Wait for it or stop it.")
            _drop_torn_line(stream)
            fsync_folder(self.folder)
            with naming(path):
                yield Writer(stream)

    def finish(self, text: str, report: dict[str, Any]) -> None:
        """Write the final file (whole or not at all), then the note that it is complete.

        Args:
            text: content of the final file.
            report: counts for complete.json.
        """
        self._make_folder()
        with open(self.folder / "merge.lock", "w") as lock:
            _lock(lock, wait=True)
            if self.complete():
                return
            write_text(self.final, text)
            write_json(self.folder / "complete.json", {"sha256": _sha256(self.final)} | report)

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "made_from.json").exists():
            write_json(self.folder / "made_from.json", self.made_from)

    def _maker(self) -> str:
        """Who made the final file, as far as notes beside it say."""
        digest = _sha256(self.final) if self.final.is_file() else None
        for note in sorted(self.folder.parent.glob(f"{self.final.stem}.*/complete.json")):
            source = note.parent / "made_from.json"
            if read_json(note).get("sha256") == digest and source.is_file():
                theirs = read_json(source)
                keys = sorted(set(theirs) | set(self.made_from))
                differing = [key for key in keys if theirs.get(key) != self.made_from.get(key)]
                return f"another run (differs in: {', '.join(differing)})"
        return "something else (no note of it in the work folder)"


class Writer:
    """Appends answers to one part."""

    def __init__(self, stream):
        self._stream = stream

    def append(self, answers: Iterable[Answer]) -> None:
        """Write the lines of a batch and flush them to the disk."""
        self._stream.write("".join(answer.line() for answer in answers).encode("ascii"))
        self._stream.flush()
        os.fsync(self._stream.fileno())


def _valid_answers(content: bytes) -> Iterator[Answer]:
    """The answers of the whole lines; a torn last line, or one damaged on the disk, is asked again."""
    for line in content.split(b"\n")[:-1]:
        answer = _parse(line)
        if answer is not None:
            yield answer


def _parse(line: bytes) -> Answer | None:
    try:
        answer = Answer(**parse_json(line.decode(), "answer"))
    except (ValueError, TypeError):
        return None
    kinds = [answer.text, answer.bad_image, answer.failed]
    sound = (
        isinstance(answer.position, int)
        and all(k is None or isinstance(k, str) for k in kinds)
        and any(k is not None for k in kinds)
    )
    return answer if sound else None


def _drop_torn_line(stream) -> None:
    stream.seek(0)
    content = stream.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        stream.truncate(whole)
        os.fsync(stream.fileno())


def _lock(stream, wait: bool) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
