"""Split an annotation file into disjoint train, val and test files, one of each per task.

By default, all records of an image within a task go to the same split; --across-tasks applies this across all tasks of
the file, --by record ignores images. The same file and seed give identical output files.
"""

import hashlib
from argparse import Namespace
from array import array
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from scripts_visatb.data.mixes import size_label
from scripts_visatb.data.stream import file_sizes, writing_records
from scripts_visatb.data.survey import digest
from visatb.benchmark import SPLITS
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import refuse_unwritable
from visatb.record_stream import stream_records
from visatb.records import Record, image_names, name_of, record_problems

BY = ("image", "record")
HELD_OUT = ("test", "val")  # in the order in which images are assigned
LEFT_OUT = len(SPLITS)

_EXAMPLE = """\
example, 2,000 records of every task for val and test each, 1 % of GQA for val, all of ShareGPT for train:
  python -m scripts_visatb.data.split --input mix_labelled.json --output playground/data/academic \\
      --val 2000 GQA=0.01 ShareGPT=0 --test 2000 ShareGPT=0
"""


@dataclass(frozen=True)
class Wanted:
    """Requested size of a split.

    Attributes:
        default: number of records if >= 1 or 0, else the fraction of the task's records.
        by_task: the same, for tasks with another size.
    """

    default: float = 0
    by_task: dict[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, words: list[str], flag: str) -> "Wanted":
        """Read `SIZE` and `TASK=SIZE` words."""
        sizes: dict[str | None, float] = {}
        for word in words:
            task, equals, size = word.rpartition("=")
            try:
                number = float(size)
            except ValueError:
                number = -1.0
            if not (0 <= number < 1 or (number >= 1 and number.is_integer())) or (equals and not task):
                raise InputError(
                    f"{flag} must be SIZE or TASK=SIZE, a whole number or a fraction below 1, got {word!r}."
                )
            if (task or None) in sizes:
                raise InputError(f"{flag}: {word!r} sets a size twice. Give each size once.")
            sizes[task or None] = number
        return cls(sizes.pop(None, 0.0), {task: size for task, size in sizes.items() if task is not None})

    def count(self, task: str, records: int) -> int:
        """Number of records requested from a task with `total` records."""
        size = self.by_task.get(task, self.default)
        return round(size * records) if size < 1 else int(size)


@dataclass
class Units:
    """Task and unit of every record; the records of a unit (an image, or the record itself) stay together.

    Attributes:
        tasks: names, in order of appearance.
        task_of, unit_of: by record; unit_of are 64-bit digests.
    """

    tasks: dict[str, int] = field(default_factory=dict)
    task_of: array = field(default_factory=lambda: array("l"))
    unit_of: array = field(default_factory=lambda: array("Q"))
    _joined: dict[int, int] = field(default_factory=dict)

    def add(self, record: Record, task: str, by: str, across_tasks: bool) -> None:
        """Add the next record of the file."""
        scope = () if across_tasks else (task,)
        names = image_names(record) if by == "image" else []
        images = [self._root(digest(*scope, "image", name)) for name in names]
        for other in images[1:]:
            if other != images[0]:
                self._joined[other] = images[0]
        self.task_of.append(self.tasks.setdefault(task, len(self.tasks)))
        self.unit_of.append(images[0] if images else digest("record", len(self.task_of)))

    def _root(self, unit: int) -> int:
        while unit in self._joined:  # images of the same record
            unit = self._joined[unit]
        return unit

    def numbered(self) -> tuple[np.ndarray, np.ndarray]:
        """(digest of each unit, number of the unit of each record)."""
        units = self.unit_of
        if self._joined:
            units = array("Q", map(self._root, units))
        return np.unique(np.frombuffer(units, dtype=np.uint64), return_inverse=True)


def assign(units: Units, seed: int, wanted: dict[str, Wanted]) -> np.ndarray:
    """The split of every record: its index in SPLITS, or LEFT_OUT.

    Units are assigned in random order: to test, else to val, if one of their tasks has room there for all its records
    of the unit, else to train. Records of a unit in val or test whose own task has no room there are omitted.

    Args:
        units: the records.
        seed: determines the order.
        wanted: requested sizes of val and test.

    Raises:
        InputError: a task that is not in the file; an empty val or test split, or no record left for train.
    """
    names = list(units.tasks)
    _check_names(wanted, names)
    digests, number = units.numbered()
    task_of = np.frombuffer(units.task_of, dtype=np.int_)
    total = np.bincount(task_of, minlength=len(names))
    room = {s: np.array([wanted[s].count(name, total[n]) for n, name in enumerate(names)]) for s in HELD_OUT}
    by_unit = np.argsort(number, kind="stable")
    ends = np.cumsum(np.bincount(number, minlength=len(digests)))
    split_of = np.full(len(task_of), SPLITS.index("train"), dtype=np.int8)
    for unit in _shuffled(digests, seed):
        if not any(space.any() for space in room.values()):
            break
        records = by_unit[ends[unit - 1] if unit else 0 : ends[unit]]
        count = np.bincount(task_of[records], minlength=len(names))
        for split in HELD_OUT:
            fits = (count > 0) & (count <= room[split])
            if fits.any():
                split_of[records] = np.where(fits[task_of[records]], SPLITS.index(split), LEFT_OUT)
                room[split] -= np.where(fits, count, 0)
                break
    _check_result(names, task_of, split_of, wanted, total)
    return split_of


def split_file(
    source: Path,
    output: Path,
    seed: int,
    wanted: dict[str, Wanted],
    by: str,
    across_tasks: bool,
    task: str | None,
    plain_names: bool = False,
) -> tuple[dict[tuple[str, str], Path], Counter]:
    """Split a file; returns the file of each (task, split), and the number of omitted records by task.

    Args:
        source: annotation file.
        output: folder for `{task}_{split}-{size}.json`.
        seed, wanted: see `assign`.
        by: one of BY.
        across_tasks: whether an image stays in one split across all tasks.
        task: task of records without one; None requires `task` fields.
        plain_names: leave the size out of the file names, so that a benchmark file can name them beforehand.

    Raises:
        InputError: see `assign`; an invalid record; an input file that an output file would replace.
    """
    units = Units()
    size = file_sizes([source])
    with tqdm(total=size, desc="reading", unit="B", unit_scale=True) as bar:
        for n, record in enumerate(stream_records(source, bar.update)):
            where = f"{source}: {name_of(record, n)}"
            for _, problem in record_problems(record, where, set()):
                raise problem
            units.add(record, _task(record, task, where), by, across_tasks)
    split_of = assign(units, seed, wanted)
    names = list(units.tasks)
    amounts = Counter((names[t], s) for t, s in zip(units.task_of, split_of.tolist(), strict=True))
    paths = {
        (name, split): output / f"{name}_{split}{'' if plain_names else f'-{size_label(amounts[name, s])}'}.json"
        for name in names
        for s, split in enumerate(SPLITS)
        if amounts[name, s]
    }
    refuse_unwritable(paths.values(), [source])
    with ExitStack() as stack:
        writers = {key: stack.enter_context(writing_records(path)) for key, path in paths.items()}
        bar = stack.enter_context(tqdm(total=size, desc="writing", unit="B", unit_scale=True))
        for split, record in zip(split_of.tolist(), stream_records(source, bar.update, again=True), strict=True):
            if split != LEFT_OUT:
                name = record.setdefault("task", task)
                if SPLITS[split] in HELD_OUT:  # training drops a leading gpt turn, evaluation does not use it
                    record["conversations"] = record["conversations"][len(record["conversations"]) % 2 :]
                writers[name, SPLITS[split]].write(record)
    return paths, Counter({name: amounts[name, LEFT_OUT] for name in names if amounts[name, LEFT_OUT]})


def _task(record: Record, default: str | None, where: str) -> str:
    task = record.get("task", default)
    if not isinstance(task, str) or not task or not all(ch.isalnum() or ch in "-._" for ch in task):
        raise InputError(
            f"{where}: task must be a name of letters, digits, '-', '.', '_', got {task!r}. Label the file with "
            "scripts_visatb.data.label_tasks, or give --task."
        )
    return task


def _shuffled(digests: np.ndarray, seed: int) -> list[int]:
    """Positions in the random order of the seed, which does not depend on the order of the file."""
    hashes = b"".join(hashlib.sha256(f"{seed}/{value}".encode()).digest()[:8] for value in digests.tolist())
    return np.argsort(np.frombuffer(hashes, dtype=">u8"), kind="stable").tolist()


def _check_names(wanted: dict[str, Wanted], names: list[str]) -> None:
    for split, sizes in wanted.items():
        for name in sizes.by_task:
            if name not in names:
                raise InputError(
                    f"--{split}: no record of task {name!r}; the file has {', '.join(names)}. Fix the flag."
                )


def _check_result(names: list[str], task_of: np.ndarray, split_of: np.ndarray, wanted: dict, total: np.ndarray) -> None:
    for n, name in enumerate(names):
        got = np.bincount(split_of[task_of == n], minlength=LEFT_OUT + 1)
        for split in HELD_OUT:
            count = wanted[split].count(name, int(total[n]))
            if count and not got[SPLITS.index(split)]:
                raise InputError(
                    f"--{split}: {count} of the {total[n]} records of {name} are not available. Request fewer."
                )
        if not got[SPLITS.index("train")]:
            raise InputError(f"{name}: val and test take all of its {total[n]} records. Request fewer.")


def _parse() -> Namespace:
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("--input", required=True, type=Path, help="annotation file, .json or .jsonl")
    parser.add_argument("--output", required=True, type=Path, help="folder for {task}_{split}-{size}.json")
    for split in HELD_OUT[::-1]:
        parser.add_argument(
            f"--{split}",
            nargs="+",
            default=[],
            metavar="[TASK=]SIZE",
            help=f"{split} records of each task, a number or a fraction below 1; TASK=SIZE for another size of a task",
        )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random split")
    parser.add_argument("--by", choices=BY, default="image", help="unit that is never divided between splits")
    parser.add_argument(
        "--across-tasks",
        action="store_true",
        help="keep an image in one split across all tasks; records that then fit nowhere are omitted",
    )
    parser.add_argument("--task", help="task of records without a task field")
    parser.add_argument(
        "--plain-names", action="store_true", help="write {task}_{split}.json, as mix665k.yaml has them"
    )
    return parser.parse_args()


def main() -> None:
    """Command line."""
    args = _parse()
    if args.across_tasks and args.by == "record":
        raise InputError("--across-tasks keeps images together, --by record does not. Use one of them.")
    wanted = {split: Wanted.parse(getattr(args, split), f"--{split}") for split in HELD_OUT}
    units = (args.by, args.across_tasks, args.task, args.plain_names)
    paths, left_out = split_file(args.input, args.output, args.seed, wanted, *units)
    for path in paths.values():
        print(path)
    for name, count in left_out.items():
        print(f"{name}: {count} records omitted, whose images are in val or test of other tasks")


if __name__ == "__main__":
    run(main)
