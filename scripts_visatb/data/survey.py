"""First pass over a benchmark's annotation files: everything is checked, only counts and 64-bit digests are kept.

Among a billion different values, any two share a digest with a probability of 3 %, so reported overlaps are reliable.
"""

import hashlib
from array import array
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from tqdm import tqdm

from scripts_visatb.data.stream import file_sizes
from visatb.benchmark import SPLITS, Benchmark
from visatb.errors import InputError
from visatb.overlap import KINDS, Overlap
from visatb.record_stream import stream_records
from visatb.records import Record, check_record, image_names, name_of, resolve_image


def digest(*values: str | int) -> int:
    """A 64-bit digest of the values, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(values).encode(), digest_size=8).digest(), "big")


def keys(record: Record) -> dict[str, dict[int, str]]:
    """What another record may share: for each of KINDS the digests, and the name of each value in messages."""
    names, identifier = image_names(record), record.get("id")
    question = record["conversations"][0]["value"]
    label = "" if identifier is None else f"id {identifier!r}"
    return {
        "samples": {digest(*names, question): label or f"{question[:60]!r}"},
        "images": {digest(name): repr(name) for name in names},
        "ids": {} if identifier is None else {digest(identifier): label},
    }


@dataclass
class TaskSurvey:
    """The records of one task in one split.

    Attributes:
        file: the annotation file; other tasks may use the same file.
        count: number of records.
        digests: for each of KINDS the digests of all records.
    """

    file: Path
    count: int = 0
    digests: dict[str, array] = field(default_factory=lambda: {kind: array("Q") for kind in KINDS})

    def add(self, values: dict[str, dict[int, str]]) -> None:
        """Count a record with these `keys`."""
        self.count += 1
        for kind, found in values.items():
            self.digests[kind].extend(found)

    def unique(self, kind: str) -> np.ndarray:
        """The distinct digests of a kind, ascending."""
        return np.unique(np.frombuffer(self.digests[kind], dtype=np.uint64))


Survey = dict[str, dict[str, TaskSurvey]]  # split -> task -> survey, in the order of writing


def files_of(benchmark: Benchmark, split: str) -> dict[str, list[str]]:
    """File name -> tasks whose records of the split it contains; files and tasks in id order."""
    owners: dict[str, list[str]] = {}
    for task in benchmark.tasks:
        if split in task.files:
            owners.setdefault(task.files[split], []).append(task.name)
    return owners


def survey(benchmark: Benchmark, data_folder: Path, image_folder: Path | None) -> Survey:
    """Check every record of every split, and every image file once.

    Args:
        benchmark: the tasks and their files. Several tasks may use the same file; each record then belongs to its own
            task.
        data_folder: where the annotation files are.
        image_folder: folder of all images; None skips the check of images.

    Raises:
        InputError: naming the file and record with an invalid format or a missing image, or the task without data.
    """
    owners = {split: files_of(benchmark, split) for split in SPLITS}
    total = file_sizes([data_folder / file for files in owners.values() for file in files])
    found: Survey = {split: {} for split in SPLITS}
    resolved: set[int] = set()
    with tqdm(total=total, desc="checking records", unit="B", unit_scale=True) as bar:
        for split, files in owners.items():
            for file, names in files.items():
                path = data_folder / file
                tasks = {name: TaskSurvey(path) for name in names}
                seen: set = set()
                for n, record in enumerate(stream_records(path, bar.update)):
                    where = f"{path}: {name_of(record, n)}"
                    check_record(record, where, seen, names, training=split == "train")
                    tasks[record["task"]].add(keys(record))
                    if image_folder is not None:
                        _resolve_new_images(record, where, image_folder, resolved)
                found[split] |= tasks
    for tasks in found.values():
        for name, task in tasks.items():
            if not task.count:
                raise InputError(
                    f"{task.file}: no record of task {name!r}. Add its data or drop the task from the benchmark."
                )
    return found


def _resolve_new_images(record: Record, where: str, image_folder: Path, resolved: set[int]) -> None:
    for name in image_names(record):
        if (value := digest(name)) not in resolved:
            resolve_image(image_folder, name, where)
            resolved.add(value)


def shared_ids(tasks: dict[str, TaskSurvey]) -> set[int]:
    """Digests of the ids that several of the tasks use."""
    values, uses = np.unique(np.concatenate([task.unique("ids") for task in tasks.values()]), return_counts=True)
    return set(values[uses > 1].tolist())


def overlaps(task: str, splits: dict[str, TaskSurvey]) -> list[Overlap]:
    """Every overlap between two splits of one task; only the strongest kind of each pair is reported."""
    found = []
    for first, second in combinations(splits, 2):
        for kind in KINDS:
            shared = np.intersect1d(splits[first].unique(kind), splits[second].unique(kind), assume_unique=True)
            if len(shared):
                example = _example(task, splits[second].file, kind, set(shared.tolist()))
                found.append(Overlap(task, (first, second), kind, len(shared), example))
                break
    return found


def _example(task: str, file: Path, kind: str, shared: set[int]) -> str:
    labels = {}
    for record in stream_records(file):
        if record["task"] == task:
            labels |= {value: label for value, label in keys(record)[kind].items() if value in shared}
    return min(labels.values())
