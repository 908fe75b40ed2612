"""Prints what data a benchmark needs and, with --check, what of it is there and what is missing.

    python -m scripts_visatb.data.inventory academic
    visatb data academic --check playground/data

Exit code 1 if something is missing. Records are counted and the files of images looked up; `visatb check` then examines
every record as training would.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scripts_visatb.data.sources import ANNOTATIONS, source_of
from scripts_visatb.workflow.cost import find_benchmark
from scripts_visatb.workflow.sources import missing
from visatb.benchmark import Benchmark, load_benchmark
from visatb.cli import EXIT_FAILED, ArgumentParser, run
from visatb.errors import InputError
from visatb.layout import lay_out
from visatb.record_stream import stream_records
from visatb.records import image_names, resolve_image

FIRST, EVERY = 50, 1000  # images that are looked up: the first of a folder in each file, and every thousandth after
DEEPEST = 3  # folders below the given one in which annotation files are looked for
_FOLDERS = 2  # of an image's path that name its source


@dataclass
class Images:
    """Images of one folder: how often records name them, some of their names, and which of these are absent."""

    count: int = 0
    names: dict[str, None] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Found:
    """An annotation file of a benchmark: where it is (None: nowhere), and files that could be meant instead."""

    task: str
    split: str
    name: str
    path: Path | None
    like: tuple[str, ...] = ()


def annotation_places(benchmark: Benchmark, folder: Path) -> list[Found]:
    """Where every annotation file of a benchmark lies: in the benchmark's data folder, or in or below `folder`."""
    there = {path.name: path for path in reversed(list(_annotation_files(folder)))}
    found = []
    for task in benchmark.tasks:
        for split, name in task.files.items():
            own = Path(benchmark.data_folder) / name
            path = own if own.is_file() else there.get(Path(name).name)
            like = () if path else tuple(sorted(other for other in there if _core(other) == _core(name)))
            found.append(Found(task.name, split, name, path, like))
    return found


def _annotation_files(folder: Path, depth: int = 0) -> Iterator[Path]:
    """JSON files in a folder and its folders, the nearest first."""
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    yield from (Path(entry.path) for entry in listed if entry.name.endswith((".json", ".jsonl")) and entry.is_file())
    for entry in listed if depth < DEEPEST else ():
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _annotation_files(Path(entry.path), depth + 1)


def _core(name: str) -> str:
    """What is left of a file name without its size, in one spelling: complex-reasoning_train-77k.json and others."""
    return re.sub(r"-\d+k?$", "", Path(name).stem).lower().replace("_", "-")


def images_of(files: list[Path], every: bool) -> dict[str, Images]:
    """First folders of the image paths in annotation files -> the images there that are to be looked up.

    Args:
        files: annotation files.
        every: look up every image, not only FIRST of each file and every EVERY-th.

    Raises:
        InputError: naming the file that is broken.
    """
    from tqdm import tqdm

    found: dict[str, Images] = {}
    for path in tqdm(files, desc="annotation files", unit=" files", delay=5):
        seen: Counter[str] = Counter()
        for record in stream_records(path):
            for name in map(str, image_names(record)):
                place = "/".join(name.split("/")[:-1][:_FOLDERS]) or "."
                entry = found.setdefault(place, Images())
                entry.count += 1
                seen[place] += 1
                if every or seen[place] <= FIRST or seen[place] % EVERY == 0:
                    entry.names[name] = None
    return found


def is_there(image_folder: Path, name: str) -> bool:
    """Whether an image is a file inside the image folder."""
    try:
        resolve_image(image_folder, name, "")
    except InputError:
        return False
    return True


def describe(benchmark: Benchmark) -> str:
    """What a benchmark needs, and where it comes from."""
    lines = [f"{benchmark.name}: annotation files in {benchmark.data_folder}, images in {benchmark.image_folder}"]
    if source := ANNOTATIONS.get(benchmark.name):
        lines.append(f"annotation files: {source.address} ({source.remark})")
    rows = [["task", "metric", "split", "file"]]
    for task in benchmark.tasks:
        rows += [[task.name, task.metric or "-", split, name] for split, name in task.files.items()]
    if benchmark.prepare:
        lines.append(f"all of it is made by its own command: {benchmark.prepare}")
    return "\n".join([*lines, "", lay_out(rows)])


def check(benchmark: Benchmark, folder: Path, image_folder: Path, every: bool) -> tuple[str, bool]:
    """What is there and what is missing, as text, and whether all is there.

    Args:
        benchmark: what is needed.
        folder: where annotation files are looked for, besides the benchmark's data folder.
        image_folder: that `image` fields are relative to.
        every: look up every image, not only some of each folder.
    """
    places = annotation_places(benchmark, folder)
    lines, complete = _annotation_lines(benchmark, places), all(found.path for found in places)
    files = list(dict.fromkeys(found.path for found in places if found.path))
    images = images_of(files, every)
    for entry in images.values():
        entry.absent = [name for name in entry.names if not is_there(image_folder, name)]
    lines += ["", f"images in {image_folder}:"]
    rows = [["folder", "named by", "looked up", "there"]]
    for place, entry in sorted(images.items()):
        there = len(entry.names) - len(entry.absent)
        rows.append([place, f"{entry.count:,}", f"{len(entry.names):,}", f"{there:,}"])
    lines.append(lay_out(rows) if images else "no record there names an image")
    for place, entry in sorted(images.items()):
        if entry.absent:
            source = source_of(place)
            where = f" From {source.address}{f' ({source.remark})' if source.remark else ''}." if source else ""
            lines.append(f"MISSING {place}: e.g. {entry.absent[0]}.{where}")
    others = [sentence for sentence in missing(benchmark) if "projector" in sentence]
    lines += others
    return "\n".join(lines), complete and not others and not any(entry.absent for entry in images.values())


def _annotation_lines(benchmark: Benchmark, places: list[Found]) -> list[str]:
    there = sum(found.path is not None for found in places)
    lines = [f"{benchmark.name}: {there} of {len(places)} annotation files are there"]
    elsewhere = {found.path.parent for found in places if found.path} - {Path(benchmark.data_folder)}
    lines += [f"note: some are in {place}: set data_folder to it, or link them into one folder" for place in elsewhere]
    for found in places:
        if found.path is None:
            like = f"; there is {', '.join(found.like)}: name it in the benchmark file" if found.like else ""
            lines.append(f"MISSING {found.split} of {found.task}: {found.name}{like}")
    if there < len(places) and (source := ANNOTATIONS.get(benchmark.name)):
        lines.append(f"annotation files: {source.address} ({source.remark})")
    return lines


def main() -> int:
    """Command line."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("benchmark", help="name as in `visatb show`, or path of a benchmark file")
    parser.add_argument(
        "--check", nargs="?", const="", metavar="FOLDER", help="check; the benchmark's own folders without FOLDER"
    )
    parser.add_argument("--image-folder", help="folder of the images; FOLDER, or the benchmark's own without it")
    parser.add_argument("--every-image", action="store_true", help="look up all images, not some of each folder")
    args = parser.parse_args()
    benchmark = load_benchmark(find_benchmark(args.benchmark))
    if args.check is None:
        print(describe(benchmark))
        return 0
    folder = Path(args.check or benchmark.data_folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Make it and put the data there, or give another with --check.")
    text, complete = check(benchmark, folder, Path(_images(args.image_folder, args.check, benchmark)), args.every_image)
    print(text)
    print("everything is there" if complete else "something is missing", file=sys.stderr)
    return 0 if complete else EXIT_FAILED


def _images(given: str | None, checked: str, benchmark: Benchmark) -> str:
    """The image folder: the flag, else the checked folder, unless that is the benchmark's data folder."""
    if given:
        return given
    inside = checked and Path(checked).resolve() != Path(benchmark.data_folder).resolve()
    return checked if inside else benchmark.image_folder


if __name__ == "__main__":
    run(main)
