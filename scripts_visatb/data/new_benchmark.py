"""Writes a benchmark file from a folder of annotation files. What it guesses is marked `guess` in the file: look at it.

    python -m scripts_visatb.data.new_benchmark playground/data/mine --image-folder playground/data
    visatb new playground/data/mine --output mine.yaml

Files are named {task}_{train|val|test}.json or .jsonl, with or without a size ({task}_{split}-2k.json), as
`visatb split` writes them. Metrics are guessed from the form of the answers. A task without val and test files gets the
fixed weight 1.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from visatb.benchmark import SPLITS, load_benchmark
from visatb.boxes import read_box
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError, shown
from visatb.files import refuse_unwritable, write_text
from visatb.record_stream import Record, name_of, stream_records

LOOKED_AT = 500  # records of a file
SHORT, CAPTION = 3, 60  # words: of an answer in a word or phrase, of a caption
TOKENS_PER_WORD = 2.0
_NAME = re.compile(r"(?P<task>.+)_(?P<split>train|val|validation|dev|test)(-\d+k?)?\.jsonl?")
_SPLIT = {"validation": "val", "dev": "val"}


@dataclass(frozen=True)
class Guess:
    """What the answers of a task look like.

    Attributes:
        metric: that fits them.
        reason: why, for the file.
        max_new_tokens: room for the longest answer seen.
    """

    metric: str
    reason: str
    max_new_tokens: int


def annotation_files(folder: Path) -> dict[str, dict[str, str]]:
    """Task -> split -> name of its file.

    Raises:
        InputError: no such file; two files of one task and split; a task without a train file.
    """
    found: dict[str, dict[str, str]] = {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        split = _SPLIT.get(match["split"], match["split"])
        files = found.setdefault(match["task"], {})
        if split in files:
            raise InputError(
                f"{folder}: {files[split]} and {path.name} are both the {split} file of {match['task']}. Remove one."
            )
        files[split] = path.name
    if not found:
        raise InputError(
            f"{folder}: no file named {{task}}_{{train|val|test}}.json. Split a mix with visatb split, or rename files."
        )
    for task in found:
        if "train" not in found[task]:
            raise InputError(f"{folder}: {task} has no train file. Add {task}_train.json, or remove its other files.")
    return {task: {split: files[split] for split in SPLITS if split in files} for task, files in found.items()}


def guess(answers: Iterable[Any]) -> Guess:
    """The metric that fits answers (`conversations[1].value`), and the room that they need."""
    answers = list(answers)
    lists = [one for one in answers if isinstance(one, list)]
    texts = [str(one) for answer in answers for one in (answer if isinstance(answer, list) else [answer])]
    words = sorted(len(text.split()) for text in texts)
    usual, longest = words[int(0.9 * (len(words) - 1))], words[-1]
    room = max(16, 1 << (int(TOKENS_PER_WORD * longest) - 1).bit_length())
    if len(lists) == len(answers):
        return Guess("cider_list", "every record has a list of references", room)
    if all((box := read_box(text)) and text.strip().startswith("[") and len(box) == 4 for text in texts):
        return Guess("iou", "every answer is a box", max(room, 32))
    if usual <= SHORT:
        return Guess("exact_match", f"nine of ten answers have at most {usual} word(s)", room)
    if usual <= CAPTION:
        return Guess("cider", f"nine of ten answers have at most {usual} word(s), one reference each", room)
    return Guess("cider", "long answers, one reference each; `judge` asks a model instead", room)


def _answer(record: Record, where: str) -> Any:
    turns = record.get("conversations")
    if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, dict) for turn in turns):
        raise InputError(f"{where}: expected conversations with a question and an answer (docs/data.md). Fix it.")
    # Training files may open with a turn of the model's, which is dropped.
    return turns[len(turns) % 2 + 1].get("value", "")


def _task_lines(folder: Path, task: str, files: dict[str, str]) -> list[str]:
    named = ", ".join(f"{split}: {_word(name)}" for split, name in files.items())
    lines = [f"  - name: {_word(task)}"]
    looked_at = files.get("val") or files["train"]
    records = list(islice(stream_records(folder / looked_at), LOOKED_AT))
    for n, record in enumerate(records):
        if record.get("task") != task:
            where = f"{folder / looked_at}: {name_of(record, n)}"
            got = shown(record.get("task"))
            raise InputError(f"{where}: task must be {task!r} as in the file's name, got {got}. Fix it.")
    if not {"val", "test"} <= files.keys():
        lines.append("    weight: 1.0   # guess: fixed, for there are no val and test files (visatb split makes them)")
        return [*lines, f"    files: {{train: {_word(files['train'])}}}"]
    found = guess(_answer(record, f"{folder / looked_at}: {name_of(record, n)}") for n, record in enumerate(records))
    lines.append(f"    metric: {found.metric}   # guess: {found.reason}")
    lines.append(f"    max_new_tokens: {found.max_new_tokens}   # guess: twice the words of the longest answer seen")
    return [*lines, f"    files: {{{named}}}"]


def _word(text: str) -> str:
    """Text as a YAML scalar: names that YAML reads as a number or a date in quotes."""
    return text if re.fullmatch(r"[A-Za-z][\w.-]*[A-Za-z]|[A-Za-z][\w.-]*_\w[\w.-]*", text) else f"'{text}'"


def benchmark_text(folder: Path, name: str, image_folder: str, base: str) -> str:
    """The content of the benchmark file."""
    tasks = annotation_files(folder)
    lines = [
        f"# Tasks of {folder}, by `visatb new`. Lines with `guess` need your eyes; docs/benchmarks.md has every key.",
        f"name: {_word(name)}",
        f"data_folder: {folder}",
        f"image_folder: {image_folder}",
        "mini_rate: 0.0625    # guess: a sixteenth of every task; `visatb show` says whether the minis are long enough",
        "large_rate: 1.0",
        "temperature: 0.5",
        "alpha: [0.25, 0.25, 0.5]",
        "",
        "tasks:   # in id order: the position of a task is its id, and that of its weight in --visatb_weights",
    ]
    for task, files in tasks.items():
        lines += _task_lines(folder, task, files)
    return "\n".join([*lines, "", *_recipe(base), ""])


def _recipe(base: str) -> list[str]:
    return [
        "training:",
        "  script: scripts_visatb/finetune_academic.sh",
        "  environment:   # guess: the paper's recipe",
        f"    BASE_MODEL_PATH: {base}",
        "    VISION_TOWER: openai/clip-vit-large-patch14-336",
        "    PRETRAIN_MM_MLP_ADAPTER: checkpoints/pretrain-vicuna-7b-v1.5/mm_projector.bin",
        "    PER_DEVICE_TRAIN_BATCH_SIZE: 16",
        "    NUM_TRAIN_EPOCHS: 1",
        "",
        "inference:",
        "  batch-size: 16",
    ]


def main() -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the annotation files")
    parser.add_argument("--output", type=Path, help="the benchmark file; {name of FOLDER}.yaml by default")
    parser.add_argument("--name", help="name of the benchmark and of its runs; that of FOLDER by default")
    parser.add_argument("--image-folder", default="playground/data", help="folder that `image` fields are relative to")
    parser.add_argument("--base-model", default="lmsys/vicuna-7b-v1.5", help="what the trainings start from")
    args = parser.parse_args()
    if not args.folder.is_dir():
        raise InputError(f"{args.folder}: no such folder. Give the folder of the annotation files.")
    name = args.name or args.folder.resolve().name
    output = args.output or Path(f"{name}.yaml")
    if output.exists():
        raise InputError(f"{output}: exists already. Remove it, or give another --output.")
    refuse_unwritable([output])
    text = benchmark_text(args.folder, name, args.image_folder, args.base_model)
    write_text(output, text)
    try:
        benchmark = load_benchmark(output)
    except InputError:
        output.unlink()  # nothing that cannot be used stays behind
        raise
    print(
        f"{output}: {len(benchmark.tasks)} tasks, {len(benchmark.measured)} measured; guesses: {text.count('# guess')}"
    )
    print(f"Look at the lines marked `guess`, then: visatb data {output} --check && visatb show {output}")


if __name__ == "__main__":
    run(main)
