"""An annotation file as a checked, memory-mapped sequence of records, which all ranks, workers and runs share.

The index holds the place of every record in the file and what the whole set must know of it: task, images, words,
characters, empty turns. It is made by one pass that parses and checks the file, and kept beside it (or in the cache
folder where that is read-only), so that the next start reads neither all records nor keeps them in memory.

It is valid for the file's content (SHA-256). A record that is read later must have the bytes that were checked
(CRC-32): a file that changes during a training is noticed.
"""

# N records

import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from visatb.array_cache import ArrayCache, as_array, from_array
from visatb.errors import InputError
from visatb.record_stream import Record, name_of, stream_spans
from visatb.records import IMAGE_TOKEN, check_record, image_names, is_empty, spoken_turns

SUFFIX = ".index.npz"
_FORMAT = "1"  # of the file, and of what its columns mean
EMPTY_QUESTION, EMPTY_ANSWER = 1, 2  # bits of `empty_N`

Check = Callable[[Record, str], None]


@dataclass(frozen=True)
class Columns:
    """What the whole set knows of each record.

    Attributes:
        images_N: number of images.
        words_N: words of all turns.
        characters_N: characters of all turns but for `<image>`.
        empty_N: EMPTY_QUESTION where a question is empty, EMPTY_ANSWER where an answer is, their sum where both are.
        task_N: position of the task in `tasks`; -1 where the field is no text.
        tasks: names, in the order in which they occur.
    """

    images_N: np.ndarray
    words_N: np.ndarray
    characters_N: np.ndarray
    empty_N: np.ndarray
    task_N: np.ndarray
    tasks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.task_N)


_COLUMNS = tuple(field.name for field in fields(Columns) if field.name.endswith("_N"))


class RecordIndex(Sequence[Record]):
    """The records of a file; one is parsed when it is asked for.

    Args:
        path: the annotation file.
        start_N, end_N: its records' bytes.
        crc_N: CRC-32 of these bytes.
        columns: of the records.
        images: the different image names, each with the first record that has it.
        task: replaces the records' own tasks.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        start_N: np.ndarray,
        end_N: np.ndarray,
        crc_N: np.ndarray,
        columns: Columns,
        images: Sequence[tuple[str, int]],
        task: str | None = None,
    ):
        self.path = Path(path)
        self.columns = columns
        self.images = images
        self._task = task
        self._place = (start_N, end_N, crc_N)
        self._bytes: mmap.mmap | None = None

    def __len__(self) -> int:
        return len(self._place[0])

    def __getitem__(self, index: int) -> Record:
        """A record. Raises InputError: the file is no longer the one that was checked."""
        index = range(len(self))[index]
        if self._bytes is None:
            self._bytes = _mapped(self.path)
        start, end, crc = (int(column[index]) for column in self._place)
        text = self._bytes[start:end]
        if len(text) != end - start or zlib.crc32(text) != crc:
            raise InputError(f"{self.path}: record {index} has changed since the file was checked. Start again.")
        record = json.loads(text)
        return record if self._task is None else record | {"task": self._task}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_bytes": None}

    def of_task(self, task: str) -> "RecordIndex":
        """The same records, all of one task."""
        columns = replace(self.columns, task_N=np.zeros(len(self), np.int32), tasks=(task,))
        return RecordIndex(self.path, *self._place, columns, self.images, task)


def columns_of(records: Iterable[Record]) -> Columns:
    """The columns of checked training records; those of an index are there already."""
    if isinstance(records, RecordIndex):
        return records.columns
    table = _Table()
    for record in records:
        table.add(record)
    return table.columns()


def empty_turns_of(record: Record) -> int:
    """The entry of `empty_N` of a checked training record."""
    empty = 0
    for k, turn in enumerate(spoken_turns(record)):
        if is_empty(turn["value"]):
            empty |= EMPTY_ANSWER if k % 2 else EMPTY_QUESTION
    return empty


def open_index(path: str | os.PathLike, rules: str = "", check: Check | None = None) -> RecordIndex:
    """The index of an annotation file, made if there is none that fits.

    Args:
        path: the annotation file.
        rules: name of what `check` looks at.
        check: a further check of each record, given its name for messages.

    Raises:
        InputError: a file that training would refuse (tasks are not looked at).
    """
    source = Path(path)
    cache = ArrayCache(source, SUFFIX, {"format": _FORMAT, "rules": rules, "sha256": _sha256(source)})
    index = _index_of(source, cache.load())
    if index is None:
        arrays = _made(source, check)
        cache.save(arrays)
        index = _index_of(source, arrays)
    return index


def _made(source: Path, check: Check | None) -> dict[str, np.ndarray]:
    table, places, seen = _Table(), [], set()
    with tqdm(total=os.path.getsize(source), desc=f"checking {source.name}", unit="B", unit_scale=True, delay=5) as bar:
        bytes_of_file = None
        for n, (record, start, end) in enumerate(stream_spans(source, bar.update)):
            where = f"{source}: {name_of(record, n)}"
            check_record(record, where, seen)
            if check is not None:
                check(record, where)
            table.add(record)
            bytes_of_file = bytes_of_file or _mapped(source)
            places.append((start, end, zlib.crc32(bytes_of_file[start:end])))
    start_N, end_N, crc_N = np.array(places, np.int64).reshape(-1, 3).T
    columns, images = table.columns(), table.images()
    arrays = {"start_N": start_N, "end_N": end_N, "crc_N": crc_N, "tasks": as_array(columns.tasks)}
    return arrays | {"images": as_array(images)} | {name: getattr(columns, name) for name in _COLUMNS}


class _Table:
    """The columns of records as they are read."""

    def __init__(self):
        self._rows: list[tuple[int, int, int, int, int]] = []
        self._tasks: dict[str, int] = {}
        self._images: dict[str, int] = {}

    def add(self, record: Record) -> None:
        names, task = image_names(record), record.get("task")
        position = self._tasks.setdefault(task, len(self._tasks)) if isinstance(task, str) else -1
        for name in names:
            self._images.setdefault(name, len(self._rows))
        texts = [turn["value"] for turn in record["conversations"]]
        words = sum(len(text.split()) for text in texts)
        characters = sum(len(text.replace(IMAGE_TOKEN, "")) for text in texts)
        self._rows.append((len(names), words, characters, empty_turns_of(record), position))

    def columns(self) -> Columns:
        columns = np.array(self._rows, np.int32).reshape(-1, len(_COLUMNS)).T
        return Columns(*columns, tuple(self._tasks))

    def images(self) -> list[tuple[str, int]]:
        return list(self._images.items())


def _index_of(source: Path, arrays: Mapping[str, np.ndarray] | None) -> RecordIndex | None:
    """The index in some arrays; None if they are not those of an index."""
    if arrays is None:
        return None
    try:
        places = [arrays[name] for name in ("start_N", "end_N", "crc_N")]
        tasks = tuple(map(str, from_array(arrays["tasks"])))
        images = [(str(name), int(n)) for name, n in from_array(arrays["images"])]
        columns = Columns(*(arrays[name] for name in _COLUMNS), tasks)
    except (ValueError, KeyError, TypeError):
        return None
    count = len(places[0]) if places[0].ndim else 0
    every = [*places, *(getattr(columns, name) for name in _COLUMNS)]
    sound = count and all(column.shape == (count,) and column.dtype.kind == "i" for column in every)
    sound = sound and all(0 <= n < count for _, n in images)
    if not sound or not -1 <= columns.task_N.min() <= columns.task_N.max() < len(tasks):
        return None
    return RecordIndex(source, *places, columns, images)


def _sha256(path: Path) -> str:
    if not path.is_file():  # the stream says what is wrong with it
        next(stream_spans(path))
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _mapped(path: Path) -> mmap.mmap:
    with suppress(OSError, ValueError), open(path, "rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    raise InputError(f"{path}: can no longer be read. Check the path.")
