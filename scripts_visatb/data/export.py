"""Write a training file and its task weights in the form that another trainer reads.

    python -m scripts_visatb.data.export --to ms-swift --weights weights.json --benchmark mix.yaml \\
        --data_path train.json --image_folder images --output export/swift
    python -m scripts_visatb.data.export --to llama-factory ...

ms-swift (4.6.0) takes a scale for each answer, LLaMA-Factory (0.9.5) only rates at which data sets are drawn.
What each keeps of the weighted loss (Eq. 2), and what not, is printed, and stands in docs/current_models.md.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scripts_visatb.data.stream import file_sizes, writing_records
from visatb.benchmark import Benchmark, load_benchmark
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError, shown
from visatb.files import read_json, refuse_unwritable, write_json, write_text
from visatb.record_stream import stream_records
from visatb.records import Record, check_record, image_names, name_of, resolve_image, spoken_turns

ROLES = {"human": "user", "gpt": "assistant"}
# data set of LLaMA-Factory: where a record has what
_COLUMNS = {"messages": "messages", "images": "images"}
_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}

_SWIFT = """\
swift sft --dataset {file} --is_binary_loss_scale false ...
Kept: the loss of an answer's tokens is multiplied by its task's weight (loss_scale). Without --is_binary_loss_scale
false, ms-swift drops every scale but 0 and 1 without a word.
Not kept: Eq. 2 divides by the weighted number of tokens, ms-swift by the unweighted one. The scales are therefore
normalised to a mean of 1 over the characters of all answers, so that Eq. 2 holds on average and not in each step.
"""
_FACTORY = """\
llamafactory-cli train with the lines of {file} in its configuration.
Kept: each task takes part at a rate proportional to its weight times its records.
Not kept: the loss. LLaMA-Factory has no weights; this is resampling, in which a task with a high weight is repeated and
one with a low weight is read in part, and an epoch (interleave_over) ends when all records were read: set max_steps.
"""


@dataclass
class TaskData:
    """A task of the training file.

    Attributes:
        weight: its task weight.
        records, characters: how many records it has, and characters of answers.
    """

    weight: float
    records: int = 0
    characters: int = 0


def read_weights(path: Path, benchmark: Benchmark) -> dict[str, float]:
    """The weight of every task in id order: computed for measured tasks, fixed for the others.

    Raises:
        InputError: a file without weights, a measured task without one, or a weight that is not a number > 0.
    """
    content = read_json(path)
    found = content.get("weights") if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise InputError(f"{path}: has no task weights. Give the weights.json of `visatb weigh`.")
    weights = {task.name: found.get(task.name) if task.measured else task.weight for task in benchmark.tasks}
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not (isfinite(weight) and weight > 0):
            got = "none" if weight is None else shown(weight)
            raise InputError(f"{path}: task {name} must have a weight > 0, got {got}. Compute the weights again.")
    return weights


def read_checked(path: Path, tasks: list[str], image_folder: str | None, again: bool = False) -> Iterator[Record]:
    """The records of a training file, each checked and its images found, with a progress bar."""
    seen: set = set()
    with tqdm(total=file_sizes([path]), desc="writing" if again else "reading", unit="B", unit_scale=True) as bar:
        for n, record in enumerate(stream_records(path, bar.update, again=again)):
            if not again:
                where = f"{path}: {name_of(record, n)}"
                check_record(record, where, seen, tasks)
                if image_names(record) and not image_folder:
                    raise InputError(f"{where} has an image. Set --image_folder.")
                for name in image_names(record):
                    resolve_image(image_folder, name, where)
            yield record


def survey(path: Path, weights: Mapping[str, float], image_folder: str | None) -> dict[str, TaskData]:
    """What the training file has of each task. Raises InputError: an invalid record, or no record."""
    found = {name: TaskData(weight) for name, weight in weights.items()}
    for record in read_checked(path, list(weights), image_folder):
        task = found[record["task"]]
        task.records += 1
        task.characters += sum(len(turn["value"]) for turn in spoken_turns(record)[1::2])
    if not any(task.characters for task in found.values()):
        raise InputError(f"{path}: has no answer to train on. Give the training file.")
    return {name: task for name, task in found.items() if task.records}


def loss_scales(tasks: Mapping[str, TaskData]) -> dict[str, float]:
    """The weights times the factor that makes their mean over the characters of answers 1."""
    total = sum(task.characters for task in tasks.values())
    factor = total / sum(task.weight * task.characters for task in tasks.values())
    return {name: round(task.weight * factor, 6) for name, task in tasks.items()}


def sampling_rates(tasks: Mapping[str, TaskData]) -> dict[str, float]:
    """The share of each task in what is drawn: its weight times its records, of the sum."""
    total = sum(task.weight * task.records for task in tasks.values())
    return {name: round(task.weight * task.records / total, 6) for name, task in tasks.items()}


def as_messages(record: Record, image_folder: str | None, **of_answers: Any) -> dict[str, Any]:
    """A record with roles and content, and the absolute paths of its images.

    Args:
        of_answers: keys that every answer gets beside.
    """
    messages = [
        {"role": ROLES[turn["from"]], "content": turn["value"]} | (of_answers if turn["from"] == "gpt" else {})
        for turn in spoken_turns(record)
    ]
    names = image_names(record)
    return {"messages": messages} | (
        {"images": [str(resolve_image(image_folder, n, "")) for n in names]} if names else {}
    )


def write_swift(path: Path, tasks: Mapping[str, TaskData], image_folder: str | None, output: Path) -> str:
    """Write `train.jsonl`; returns how to use it."""
    scales, file = loss_scales(tasks), output / "train.jsonl"
    refuse_unwritable([file], [path])
    with writing_records(file) as writer:
        for record in read_checked(path, list(tasks), image_folder, again=True):
            writer.write(as_messages(record, image_folder, loss_scale=scales[record["task"]]))
    for name, task in tasks.items():
        print(f"{name:<24} weight {task.weight:.4f}  loss_scale {scales[name]:.4f}  {task.records:>9,} records")
    return _SWIFT.format(file=file)


def write_factory(path: Path, tasks: Mapping[str, TaskData], image_folder: str | None, output: Path) -> str:
    """Write a data set for each task, `dataset_info.json` and `data.yaml`; returns how to use them."""
    rates, file = sampling_rates(tasks), output / "data.yaml"
    files = {name: output / f"{name}.json" for name in tasks}
    refuse_unwritable([*files.values(), file, output / "dataset_info.json"], [path])
    with ExitStack() as stack:
        writers = {name: stack.enter_context(writing_records(place)) for name, place in files.items()}
        for record in read_checked(path, list(tasks), image_folder, again=True):
            writers[record["task"]].write(as_messages(record, image_folder))
    entry = {"formatting": "sharegpt", "columns": _COLUMNS, "tags": _TAGS}
    write_json(output / "dataset_info.json", {name: {"file_name": f"{name}.json"} | entry for name in tasks})
    lines = {"dataset_dir": output, "dataset": ",".join(tasks), "mix_strategy": "interleave_over"}
    lines["interleave_probs"] = ",".join(map(str, rates.values()))
    write_text(file, "".join(f"{key}: {value}\n" for key, value in lines.items()))
    for name, task in tasks.items():
        print(f"{name:<24} weight {task.weight:.4f}  drawn at {rates[name]:.4f}  {task.records:>9,} records")
    return _FACTORY.format(file=file)


TRAINERS: dict[str, Callable[[Path, Mapping[str, TaskData], str | None, Path], str]] = {
    "ms-swift": write_swift,
    "llama-factory": write_factory,
}


def main() -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--to", required=True, choices=TRAINERS, help="the other trainer")
    parser.add_argument("--weights", required=True, type=Path, help="weights.json of `visatb weigh`")
    parser.add_argument("--benchmark", required=True, help="benchmark YAML: tasks, and weights of those not measured")
    parser.add_argument("--data_path", "--data-path", required=True, type=Path, help="annotation file to train on")
    parser.add_argument("--image_folder", "--image-folder", help="folder that `image` fields are relative to")
    parser.add_argument("--output", required=True, type=Path, help="folder of the files")
    args = parser.parse_args()
    weights = read_weights(args.weights, load_benchmark(args.benchmark))
    tasks = survey(args.data_path, weights, args.image_folder)
    args.output.mkdir(parents=True, exist_ok=True)
    print("\n" + TRAINERS[args.to](args.data_path, tasks, args.image_folder, args.output), end="")


if __name__ == "__main__":
    run(main)
