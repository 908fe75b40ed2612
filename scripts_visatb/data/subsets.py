"""Draws the training files of the N+1 preparation models, of the single-task models and of the final models.

    python -m scripts_visatb.data.subsets --benchmark scripts_visatb/benchmarks/demo.yaml --output subsets

From the training files of a benchmark it writes, with the documented names
`{benchmark or task}(-mini|-plus-mini)_train-{size}.json`:

- `{benchmark}-mini_train-...`: the union of all `mini_j` (model `mini`);
- `{task}-plus-mini_train-...`: `large_i` and `mini_j` of all j != i (model `i+mini`), for every measured task, or
  group of tasks where the benchmark balances groups;
- `{task}_train-...`: all of one measured task (the single-task model, STL);
- `{benchmark}_train-...`: everything (the final models);
- `subsets.json`: which file is which, with record counts and SHA-256, written last.

`mini_i` lies inside `large_i`, both rates are those of the benchmark and the same for every task, and the same seed
gives the same bytes. Everything is checked before the first file is written.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scripts_visatb.data.overlap import Overlap, find_overlaps
from visatb.benchmark import SPLITS, Benchmark, Task, load_benchmark
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import read_json, replacing, write_json
from visatb.records import Record, check_records, image_names, name_of, read_records, resolve_image

MANIFEST = "subsets.json"

TaskRecords = dict[str, list[Record]]


def size_label(count: int) -> str:
    """How file names tell a number of records: `998`, `2k`, `475k`."""
    return str(count) if count < 1000 else f"{round(count / 1000)}k"


def draw(count: int, rate: float, seed: int, task: str) -> set[int]:
    """The positions of a random share of a task's records; a larger rate draws a superset of a smaller one.

    Positions are ranked by SHA-256 of seed, task and position: that is the same on every machine and Python version.

    Args:
        count: number of records of the task.
        rate: share in (0, 1]; at least one record is drawn.
        seed: another seed draws another subset.
        task: name of the task, so that tasks of equal size are drawn independently.
    """
    ranked = sorted(range(count), key=lambda n: hashlib.sha256(f"{seed}/{task}/{n}".encode()).digest())
    return set(ranked[: max(1, round(rate * count))])


def balanced_units(benchmark: Benchmark) -> dict[str, list[Task]]:
    """What the weighting balances: each measured task by itself, or with the other tasks of its group; in id order."""
    units: dict[str, list[Task]] = {}
    for task in benchmark.measured:
        units.setdefault(task.group or task.name, []).append(task)
    return units


def read_split(benchmark: Benchmark, split: str, data_folder: Path) -> TaskRecords:
    """The checked records of every task that has a file of the split, in file order.

    Several tasks may share one file; each record then goes to the task it names.

    Raises:
        InputError: naming the file and record that breaks the format, or the task without data.
    """
    owners: dict[str, list[str]] = {}
    for task in benchmark.tasks:
        if split in task.files:
            owners.setdefault(task.files[split], []).append(task.name)
    found: TaskRecords = {name: [] for names in owners.values() for name in names}
    for file, names in owners.items():
        path = data_folder / file
        records = read_records(path)
        check_records(records, path, tasks=names, training=split == "train")
        for record in records:
            found[record["task"]].append(record)
        for name in names:
            if not found[name]:
                raise InputError(
                    f"{path}: no record of task {name!r}. Add its data or drop the task from the benchmark."
                )
    return found


def check_images(records: Iterable[Record], where: str, image_folder: Path) -> None:
    """Refuse the first record whose image is missing or lies outside the image folder."""
    for n, record in enumerate(records):
        for image in image_names(record):
            resolve_image(image_folder, image, f"{where}: {name_of(record, n)}")


def distinguish_ids(train: TaskRecords) -> TaskRecords:
    """The same records where an id that several tasks use reads `task/id`: ids are unique within a training file."""
    counts = Counter(identifier for records in train.values() for identifier in {r.get("id") for r in records})
    return {
        task: [
            r | {"id": f"{task}/{r['id']}"} if r.get("id") is not None and counts[r["id"]] > 1 else r for r in records
        ]
        for task, records in train.items()
    }


def compose(benchmark: Benchmark, train: TaskRecords, seed: int) -> dict[str, tuple[str, TaskRecords]]:
    """What each training file holds: key of the manifest -> (first part of the file name, records by task).

    Keys: `mini`, `entire`, `plus_mini/<task or group>`, `single/<task>`.
    """
    mini, large = {}, {}
    for name, records in train.items():
        drawn_mini = draw(len(records), benchmark.mini_rate, seed, name)
        drawn_large = draw(len(records), benchmark.large_rate, seed, name)
        mini[name] = [record for n, record in enumerate(records) if n in drawn_mini]
        large[name] = [record for n, record in enumerate(records) if n in drawn_large]
    files = {"mini": (f"{benchmark.name}-mini", mini), "entire": (benchmark.name, train)}
    for unit, tasks in balanced_units(benchmark).items():
        own = {task.name: large[task.name] for task in tasks}
        files[f"plus_mini/{unit}"] = (f"{unit}-plus-mini", mini | own)
    for task in benchmark.measured:
        files[f"single/{task.name}"] = (task.name, {task.name: train[task.name]})
    return files


def make_subsets(
    benchmark: Benchmark, output: Path, seed: int, data_folder: Path, image_folder: Path | None
) -> dict[str, Any]:
    """Check all data, write every training file and then the manifest; returns the manifest.

    Args:
        benchmark: tasks, rates and names.
        output: folder for the files; made if need be.
        seed: of the random subsets.
        data_folder: where the benchmark's annotation files are.
        image_folder: where every image must be found; None leaves images unchecked.

    Raises:
        InputError: see `read_split`, `check_images`; a sample of val or test among the training samples of its task;
            mini_rate above large_rate.
    """
    if benchmark.mini_rate > benchmark.large_rate:
        raise InputError(
            f"{benchmark.path}: mini_rate must be at most large_rate ({benchmark.large_rate}), got "
            f"{benchmark.mini_rate}. The mini subset is drawn inside the large one."
        )
    splits = {split: read_split(benchmark, split, data_folder) for split in SPLITS}
    if image_folder is not None:
        _check_all_images(benchmark, splits, data_folder, image_folder)
    overlaps = _overlaps(benchmark.measured, splits)
    files = compose(benchmark, distinguish_ids(splits["train"]), seed)
    stale = _withdraw(output)
    entries = {}
    for key, (stem, by_task) in tqdm(files.items(), desc="writing sub-datasets", unit="file"):
        total = sum(len(records) for records in by_task.values())
        path = output / f"{stem}_train-{size_label(total)}.json"
        entries[key] = {
            "file": path.name,
            "records": total,
            "tasks": {name: len(records) for name, records in by_task.items()},
            "sha256": write_records(path, [record for records in by_task.values() for record in records]),
        }
    for name in stale - {entry["file"] for entry in entries.values()}:
        (output / name).unlink(missing_ok=True)
    manifest = {
        "benchmark": benchmark.name,
        "seed": seed,
        "mini_rate": benchmark.mini_rate,
        "large_rate": benchmark.large_rate,
        "files": entries,
        "evaluation_records": {split: {k: len(v) for k, v in splits[split].items()} for split in ("val", "test")},
        "warnings": [str(overlap) for overlap in overlaps],
    }
    write_json(output / MANIFEST, manifest)
    return manifest


def write_records(path: Path, records: list[Record]) -> str:
    """Write a JSON list with one record a line, whole or not at all; returns its SHA-256."""
    digest = hashlib.sha256()
    with replacing(path) as part, open(part, "wb") as stream:
        for n, record in enumerate(records):
            line = json.dumps(record, ensure_ascii=False, allow_nan=False)
            block = (("[\n" if n == 0 else ",\n") + line).encode()
            digest.update(block)
            stream.write(block)
        digest.update(b"\n]\n")
        stream.write(b"\n]\n")
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest()


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """The manifest of a folder of sub-datasets.

    Raises:
        InputError: if there is none, which means that the sub-datasets were not finished.
    """
    return read_json(Path(folder) / MANIFEST)


def _check_all_images(benchmark: Benchmark, splits: dict[str, TaskRecords], data: Path, images: Path) -> None:
    total = sum(len(records) for by_task in splits.values() for records in by_task.values())
    with tqdm(total=total, desc="checking images", unit="record") as bar:
        for split, by_task in splits.items():
            for name, records in by_task.items():
                check_images(records, str(data / benchmark.task(name).files[split]), images)
                bar.update(len(records))


def _overlaps(tasks: list[Task], splits: dict[str, TaskRecords]) -> list[Overlap]:
    overlaps = []
    for task in tasks:
        by_split = {split: splits[split][task.name] for split in SPLITS}
        overlaps += find_overlaps(task.name, by_split)
    for overlap in overlaps:
        if overlap.kind == "samples":
            raise InputError(f"{overlap}. Remove them: a score on samples that were trained on means nothing.")
    return overlaps


def _withdraw(output: Path) -> set[str]:
    """Delete an earlier manifest, which is about to become untrue; returns the names of the files it named."""
    earlier = output / MANIFEST
    if not earlier.is_file():
        return set()
    names = {Path(entry["file"]).name for entry in read_manifest(output)["files"].values()}
    earlier.unlink()
    return names


def main() -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--benchmark", required=True, help="benchmark YAML")
    parser.add_argument("--output", required=True, type=Path, help="folder for the sub-datasets")
    parser.add_argument("--seed", type=int, help="seed of the random subsets; the benchmark's own by default")
    parser.add_argument("--data-folder", type=Path, help="annotation files; the benchmark's own by default")
    parser.add_argument("--image-folder", type=Path, help="images; the benchmark's own by default")
    parser.add_argument("--skip-image-check", action="store_true", help="do not look for every image")
    args = parser.parse_args()
    benchmark = load_benchmark(args.benchmark)
    manifest = make_subsets(
        benchmark,
        args.output,
        benchmark.seed if args.seed is None else args.seed,
        args.data_folder or Path(benchmark.data_folder),
        None if args.skip_image_check else args.image_folder or Path(benchmark.image_folder),
    )
    for warning in manifest["warnings"]:
        print(f"warning: {warning}")
    for entry in manifest["files"].values():
        print(f"{entry['records']:>8} records  {args.output / entry['file']}")


if __name__ == "__main__":
    run(main)
