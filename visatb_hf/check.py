"""Checks an annotation file for a current model before training: `visatb check --model NAME`.

    python -m visatb_hf.check --model_name_or_path Qwen/Qwen2-VL-2B-Instruct --data_path train.json \\
        --image_folder images --benchmark mix.yaml

All records are checked as training checks them. A sample of each task is rendered with the model's chat template and
passed through its processor, to report lengths, supervised tokens and cut samples. No weights are loaded.
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import refuse_unwritable, write_json
from visatb.record_stream import stream_records
from visatb_hf.arguments import add_model_flags, check_model_flags
from visatb_hf.train import tasks_of

_SHOWN = 5  # errors that are printed


@dataclass
class Found:
    """Statistics of a task: its records in the file and, for those passed through the processor, tokens, supervised
    tokens, how many are cut, and how many have no supervised token."""

    records: int = 0
    length: list[int] = field(default_factory=list)
    supervised: list[int] = field(default_factory=list)
    cut: int = 0
    unsupervised: int = 0

    def row(self) -> dict[str, Any]:
        """As JSON."""
        count = max(1, len(self.length))
        return {
            "records": self.records,
            "tried": len(self.length),
            "mean_length": round(sum(self.length) / count, 1),
            "longest": max(self.length, default=0),
            "mean_supervised_tokens": round(sum(self.supervised) / count, 1),
            "cut": self.cut,
            "unsupervised": self.unsupervised,
        }


def make_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    add_model_flags(parser)
    parser.add_argument("--sample", type=int, default=200, help="records of each task to pass through the processor")
    parser.add_argument("--output", help="also write the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        InputError: invalid flags, a model or processor that cannot be used, or, after the report, records that training
            would refuse.
    """
    flags = make_parser().parse_args(argv)
    check_model_flags(flags)
    if flags.sample < 1:
        raise InputError(f"sample must be at least 1, got {flags.sample}. Raise it.")
    refuse_unwritable([flags.output], [flags.data_path])
    tasks = tasks_of(flags.benchmark)
    next(stream_records(flags.data_path))

    from visatb_hf.models import refuse_wrong_environment

    refuse_wrong_environment(flags.model_name_or_path)
    found, errors = check(flags, tasks)
    print(report_text(found))
    if flags.output:
        write_json(flags.output, {"tasks": {name: task.row() for name, task in found.items()}, "errors": errors})
    if errors:
        print(*errors[:_SHOWN], sep="\n")
        listed = f" ({_SHOWN} are listed)" if len(errors) > _SHOWN else ""
        raise InputError(f"{flags.data_path}: training would refuse {len(errors)} of the records tried{listed}.")
    return 0


def check(flags: Namespace, tasks: Sequence[str]) -> tuple[dict[str, Found], list[str]]:
    """Statistics of each task, and the errors of records that the template or the processor refuses.

    Raises:
        InputError: an invalid record, a missing image, or a model that cannot be trained on any record.
    """
    from visatb_hf.data import ChatCollator
    from visatb_hf.models import chat_of, read_processor
    from visatb_hf.training import dataset_of, load_records

    processor = read_processor(flags.model_name_or_path)
    chat = chat_of(processor, flags)
    records = load_records(flags, list(tasks))
    dataset = dataset_of(flags, records, chat, list(tasks))
    collator = ChatCollator(processor, chat, None, len(tasks), blank_image=bool(records.images))
    members: dict[int, list[int]] = {k: [] for k in range(len(tasks))}
    for n, k in enumerate(dataset.task_of_records()):
        members[k].append(n)
    found, errors = {name: Found(len(members[k])) for k, name in enumerate(tasks)}, []
    tried = [(name, n) for k, name in enumerate(tasks) for n in spread(members[k], flags.sample)]
    for name, n in tqdm(tried, desc="trying", unit="record", disable=flags.quiet or None):
        try:
            batch = collator([dataset[n]])
        except InputError as error:
            errors.append(str(error))
            continue
        count(found[name], batch, flags.model_max_length)
    return found, errors


def spread(members: Sequence[int], most: int) -> list[int]:
    """At most `most` of them, at equal distances."""
    step = max(1, len(members) / most)
    return [members[int(n * step)] for n in range(min(most, len(members)))]


def count(task: Found, batch: dict[str, Any], longest: int) -> None:
    """Add the one sample of a batch; training keeps its first `longest` tokens."""
    from transformers_patch.loss import IGNORE_INDEX

    length = int(batch["attention_mask"][0].sum())
    supervised = int((batch["labels"][0, 1:longest] != IGNORE_INDEX).sum())
    task.length.append(length)
    task.supervised.append(supervised)
    task.cut += length > longest
    task.unsupervised += supervised == 0


def report_text(found: dict[str, Found]) -> str:
    """The tasks as a table."""
    titles = ("records", "tried", "tokens: mean", "max", "supervised: mean", "cut", "nothing supervised")
    width = max(4, *map(len, found))
    lines = [f"{'task':{width}}" + "".join(f"  {title:>8}" for title in titles)]
    for name, task in found.items():
        cells = zip(titles, task.row().values(), strict=True)
        lines.append(f"{name:{width}}" + "".join(f"  {value:>{max(8, len(title))},}" for title, value in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
