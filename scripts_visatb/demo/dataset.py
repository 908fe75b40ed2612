"""Draws the demo's images and writes its annotation files."""

from pathlib import Path

from tqdm import tqdm

from scripts_visatb.demo import annotations, drawing
from scripts_visatb.demo.drawing import Picture
from visatb.benchmark import Benchmark
from visatb.errors import InputError
from visatb.files import write_json
from visatb.records import Record, check_records

ALIGNMENT = "Alignment"


def check_sizes(benchmark: Benchmark, sizes: dict[str, dict[str, int]]) -> None:
    """Refuse a benchmark file whose tasks are not the demo's. Raises InputError naming the file."""
    if benchmark.task_names != list(sizes):
        raise InputError(f"{benchmark.path}: the demo's tasks are {', '.join(sizes)}, in this order. Fix the file.")
    for task in benchmark.tasks:
        if set(task.files) != set(sizes[task.name]):
            raise InputError(
                f"{benchmark.path}: {task.name} needs files for {', '.join(sizes[task.name])}. Fix the file."
            )


def draw_benchmark(
    benchmark: Benchmark, sizes: dict[str, dict[str, int]], seed: int, data_folder: Path, image_folder: Path
) -> None:
    """Write the annotation files of all tasks and splits into one folder and their pictures into the other.

    Held-out splits are drawn first, so that the training split's size does not change them.
    """
    drawn: set[Picture] = set()
    with tqdm(total=sum(sum(splits.values()) for splits in sizes.values()), desc="records", mininterval=2) as bar:
        for split in ("test", "val", "train"):
            for task in benchmark.tasks:
                if split in task.files:
                    made = annotations.make_records(task.name, split, sizes[task.name][split], seed, drawn)
                    records = [_with_image(record, picture, image_folder, bar) for record, picture in made]
                    path = data_folder / task.files[split]
                    check_records(records, path, benchmark.task_names, training=split == "train")
                    write_json(path, records)


def draw_alignment(count: int, seed: int, path: Path, image_folder: Path) -> None:
    """Write the captions for stage 1: pictures of all kinds from the half that the benchmark does not use."""
    made = annotations.make_alignment(ALIGNMENT, count, seed)
    with tqdm(total=count, desc="captions for stage 1", mininterval=2) as bar:
        records = [_with_image(record, picture, image_folder, bar) for record, picture in made]
    check_records(records, path)
    write_json(path, records)


def _with_image(record: Record, picture: Picture | None, image_folder: Path, bar: tqdm) -> Record:
    if picture is not None:
        path = image_folder / record["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.render(picture).save(path, format="PNG")
    bar.update()
    return record
