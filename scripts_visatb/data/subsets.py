"""Samples the training files of the N+1 preparation models, of the single-task models and of the final models.

    python -m scripts_visatb.data.subsets --benchmark scripts_visatb/benchmarks/demo.yaml --output subsets

It writes, from the training files of a benchmark and with the documented names
`{benchmark or task}(-mini|-plus-mini)_train-{size}.json`:

- `{benchmark}-mini_train-...`: the union of all `mini_j` (model `mini`);
- `{task}-plus-mini_train-...`: `large_i` and `mini_j` of all j != i (model `i+mini`), for every measured task, or
  group of tasks where the benchmark balances groups;
- `{task}_train-...`: all of one measured task (the single-task model, STL);
- `{benchmark}_train-...`: everything (the final models);
- `{task}-mini_train-...`: `mini_i` alone, for the difficulties of Eq. 11 and 12 (`--forms simpler` or `precise`);
- `short-...`: those with `large_i` or all of a task once more, cut to `samples_per_task` of a `measure`;
- `subsets.json`: which file is which, with record counts and SHA-256, written last.

`mini_i` is a subset of `large_i`, both rates come from the benchmark and are the same for every task, and the same seed
gives identical files. The annotation files are streamed twice: everything is checked before the first file is written,
and memory grows only by some tens of bytes per record.
"""

import hashlib
import os
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from scripts_visatb.data.mixes import MANIFEST, mixes, rate_of, read_manifest, size_label
from scripts_visatb.data.stream import BETWEEN, RecordWriter, encode, file_sizes, writing_records
from scripts_visatb.data.survey import Survey, digest, files_of, overlaps, shared_ids, survey
from visatb.benchmark import FORMS, STANDARD, Benchmark, load_benchmark
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import scratch_folder, write_json
from visatb.record_stream import stream_records
from visatb.records import Record

Selection = dict[str, np.ndarray]  # task -> positions of its records, ascending

_RUN = 1024  # records that are copied in one piece


def draw(count: int, rate: float, seed: int, task: str) -> np.ndarray:
    """Positions of a random fraction of a task's records; a larger rate draws a superset of a smaller one.

    Positions are ranked by SHA-256 of seed, task and position, which is the same on every machine and Python version.

    Args:
        count: number of records of the task.
        rate: fraction in (0, 1]; at least one record is drawn.
        seed: another seed draws another subset.
        task: name of the task, so that tasks of equal size are drawn independently.

    Returns:
        int64 [n], ascending.
    """
    share = max(1, round(rate * count))
    if share == count:
        return np.arange(count)
    hashes = b"".join(hashlib.sha256(f"{seed}/{task}/{n}".encode()).digest() for n in range(count))
    words = np.frombuffer(hashes, dtype=">u8").reshape(count, 4)
    return np.sort(np.lexsort(words.T[::-1])[:share])


def compose(
    benchmark: Benchmark, counts: dict[str, int], seed: int, forms: tuple[str, ...] = (STANDARD,)
) -> dict[str, tuple[str, Selection]]:
    """The records of each training file: key of the manifest -> (first part of the file name, records by task).

    Args:
        benchmark, forms: see `mixes`.
        counts: number of training records of every task, in the order of writing.
        seed: seed of the random subsets.
    """
    files = mixes(benchmark, forms)
    shares = {(name, share) for _, mix in files.values() for name, share in mix.items()}
    drawn = {(name, share): draw(counts[name], rate_of(share, counts[name]), seed, name) for name, share in shares}
    return {
        key: (stem, {name: drawn[name, mix[name]] for name in counts if name in mix})
        for key, (stem, mix) in files.items()
    }


def refuse_short(benchmark: Benchmark, counts: dict[str, int]) -> None:
    """Refuse a cut of the large subsets that leaves no more than the mini subset, which they hold.

    Raises:
        InputError: naming the task.
    """
    most = benchmark.measure.samples_per_task
    for task in benchmark.measured if most is not None else ():
        count, mini = counts[task.name], len(draw(counts[task.name], benchmark.mini_rate, 0, task.name))
        if min(count, most) <= mini < count:
            raise InputError(
                f"{benchmark.path}: measure.{benchmark.measure.kind}.samples_per_task must be more than the "
                f"{mini} samples of {task.name}'s mini subset, got {most}. Raise it."
            )


def make_subsets(
    benchmark: Benchmark,
    output: Path,
    seed: int,
    data_folder: Path,
    image_folder: Path | None,
    forms: tuple[str, ...] = (STANDARD,),
) -> dict[str, Any]:
    """Check all data, write every training file and then the manifest; returns the manifest.

    Args:
        benchmark: tasks, rates and names.
        output: folder for the files; created if missing.
        seed: seed of the random subsets.
        data_folder: where the benchmark's annotation files are.
        image_folder: folder of all images; None skips the check of images.
        forms: the FORMS to write files for.

    Raises:
        InputError: see `survey`; a sample of val or test among the training samples of its task; mini_rate above
            large_rate; two files with the same name.
    """
    if benchmark.mini_rate > benchmark.large_rate:
        raise InputError(
            f"{benchmark.path}: mini_rate must be at most large_rate ({benchmark.large_rate}), got "
            f"{benchmark.mini_rate}. The mini subset is part of the large one."
        )
    found = survey(benchmark, data_folder, image_folder)
    warnings = _overlap_warnings(benchmark, found)
    counts = {name: task.count for name, task in found["train"].items()}
    refuse_short(benchmark, counts)
    contents = compose(benchmark, counts, seed, forms)
    paths = _paths(benchmark, output, contents)
    output.mkdir(parents=True, exist_ok=True)
    entries = {}
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder(output, ".subsets."))
        stale = _withdraw(output)
        encoded = {name: EncodedTask(stack.enter_context(open(folder / name, "w+b"))) for name in counts}
        encode_tasks(benchmark, data_folder, encoded, shared_ids(found["train"]))
        for name, task in encoded.items():
            if len(task) != counts[name]:
                raise InputError(f"{found['train'][name].file}: changed while it was read. Run the command again.")
        for key, (_, selection) in tqdm(contents.items(), desc="writing sub-datasets", unit="file"):
            with writing_records(paths[key]) as writer:
                for name, positions in selection.items():
                    encoded[name].copy(positions, writer)
            entries[key] = {
                "file": paths[key].name,
                "records": writer.count,
                "tasks": {name: len(positions) for name, positions in selection.items()},
                "sha256": writer.sha256,
            }
    for name in stale - {path.name for path in paths.values()}:
        (output / name).unlink(missing_ok=True)
    manifest = {
        "benchmark": benchmark.name,
        "seed": seed,
        "mini_rate": benchmark.mini_rate,
        "large_rate": benchmark.large_rate,
        "files": entries,
        "evaluation_records": {
            split: {name: task.count for name, task in found[split].items()} for split in ("val", "test")
        },
        "warnings": warnings,
    }
    write_json(output / MANIFEST, manifest)
    return manifest


class EncodedTask:
    """The training records of one task in a temporary file, as they will be written, and where each begins."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._starts = array("Q", [0])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, record: Record) -> None:
        """Append a record."""
        data = encode(record) + BETWEEN
        self._stream.write(data)
        self._starts.append(self._starts[-1] + len(data))

    def flush(self) -> None:
        """Flush all records to the file."""
        self._stream.flush()

    def copy(self, positions: np.ndarray, writer: RecordWriter) -> None:
        """Write the records at these positions (ascending), all of which are flushed."""
        for first, count in _runs(positions):
            start, end = self._starts[first], self._starts[first + count] - len(BETWEEN)
            writer.write_encoded(os.pread(self._stream.fileno(), end - start, start), count)


def encode_tasks(
    benchmark: Benchmark, data_folder: Path, encoded: dict[str, EncodedTask], ids_in_common: set[int]
) -> None:
    """Second pass: encode every training record into the file of its task.

    An id that several tasks use becomes `task/id`: ids are unique within a training file.
    """
    files = [data_folder / file for file in files_of(benchmark, "train")]
    with tqdm(total=file_sizes(files), desc="sorting by task", unit="B", unit_scale=True) as bar:
        for file in files:
            for record in stream_records(file, bar.update, again=True):
                task, identifier = record["task"], record.get("id")
                if identifier is not None and digest(identifier) in ids_in_common:
                    record["id"] = f"{task}/{identifier}"
                encoded[task].add(record)
    for stored in encoded.values():
        stored.flush()


def _runs(positions: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, count) of the runs of consecutive positions, at most _RUN long."""
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    for start, end in pairwise([0, *breaks.tolist(), len(positions)]):
        for n in range(start, end, _RUN):
            yield int(positions[n]), min(_RUN, end - n)


def _overlap_warnings(benchmark: Benchmark, found: Survey) -> list[str]:
    warnings = []
    for task in benchmark.measured:
        for overlap in overlaps(task.name, {split: tasks[task.name] for split, tasks in found.items()}):
            if overlap.kind == "samples":
                raise InputError(f"{overlap}. Remove them: scores on training samples are meaningless.")
            warnings.append(str(overlap))
    return warnings


def _paths(benchmark: Benchmark, output: Path, contents: dict[str, tuple[str, Selection]]) -> dict[str, Path]:
    """Key of the manifest -> file."""
    paths: dict[str, Path] = {}
    for key, (stem, selection) in contents.items():
        path = output / f"{stem}_train-{size_label(sum(map(len, selection.values())))}.json"
        if path in paths.values():
            raise InputError(
                f"{benchmark.path}: {path.name} would be the name of {key} and of another file. Rename the "
                "benchmark, its tasks or its groups."
            )
        paths[key] = path
    return paths


def _withdraw(output: Path) -> set[str]:
    """Delete an earlier manifest before its files change; returns the names of the files it lists."""
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
    parser.add_argument("--seed", type=int, help="seed of the random subsets; default: the benchmark's")
    parser.add_argument("--data-folder", type=Path, help="folder of the annotation files; default: the benchmark's")
    parser.add_argument("--image-folder", type=Path, help="folder of the images; default: the benchmark's")
    parser.add_argument("--skip-image-check", action="store_true", help="do not check the images")
    parser.add_argument(
        "--forms",
        nargs="+",
        choices=FORMS,
        help="forms of the weights to write files for; default: the benchmark's",
    )
    args = parser.parse_args()
    benchmark = load_benchmark(args.benchmark)
    manifest = make_subsets(
        benchmark,
        args.output,
        benchmark.seed if args.seed is None else args.seed,
        args.data_folder or Path(benchmark.data_folder),
        None if args.skip_image_check else args.image_folder or Path(benchmark.image_folder),
        tuple(dict.fromkeys(args.forms or [benchmark.form])),
    )
    for warning in manifest["warnings"]:
        print(f"warning: {warning}")
    for entry in manifest["files"].values():
        print(f"{entry['records']:>8} records  {args.output / entry['file']}")


if __name__ == "__main__":
    run(main)
