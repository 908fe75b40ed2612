"""How far the gradient of a step is from Eq. 1 or Eq. 2 when the step is split over micro-batches and processes.

    python -m perf.split_invariance --model FOLDER_OR_HUB_NAME [--samples 8] [--trainers trainer sft weighted]

Runs in the environment of requirements-hf.txt, on a CPU in float32. One step of random token sequences of unequal
length and supervision is split as 8 x 1, 4 x 2, 2 x 4, 1 x 8 (samples per micro-batch x micro-batches) and over two
processes, for transformers' Trainer and TRL's unmodified SFTTrainer (against the token mean, Eq. 1 of
arXiv 2403.04343) and for ours (against Eq. 2 with three unequal task weights). Printed is the norm of the
gradient's difference divided by the norm of the gradient.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visatb.cli import ArgumentParser, run
from visatb.errors import InputError

SPLITS = {"8 x 1": (8, 1), "4 x 2": (4, 2), "2 x 4": (2, 4), "1 x 8": (1, 8)}
TWO_PROCESSES = "2 processes, 1 x 4"
TRAINERS = {"trainer": "transformers.Trainer", "sft": "trl.SFTTrainer", "weighted": "visatb_hf.WeightedTrainer"}
WEIGHTS = (0.5, 1.0, 2.5)
IGNORE_INDEX = -100


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; with --rank-of, run as one of the two processes."""
    args = _parser().parse_args(argv)
    if args.samples % 8:
        raise InputError(f"--samples must be a multiple of 8, got {args.samples}. Choose 8 or 16.")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if args.rank_of is not None:
        error = gradient_error(args, args.rank_of, 1, 4)
        if os.environ["RANK"] == "0":
            print(json.dumps({"error": error}), flush=True)
        return 0
    rows = {}
    for name in args.trainers:
        rows[name] = {split: gradient_error(args, name, *sizes) for split, sizes in SPLITS.items()}
        rows[name][TWO_PROCESSES] = _on_two_processes(args, name)
    _print(args.model, rows)
    return 0


def gradient_error(args: Any, trainer: str, per_device: int, accumulation: int) -> float:
    """Relative error of the first gradient of a trainer."""
    import torch
    from transformers import AutoModelForImageTextToText, Trainer, TrainingArguments
    from transformers.utils import logging

    from perf.closed_form import eq2, first_gradient, relative_error, weighted_gradient
    from visatb_hf import WeightedTrainer, build_weighter

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32)
    data = random_samples(model.config.get_text_config().vocab_size, args.samples)
    weights = WEIGHTS if trainer == "weighted" else (1.0,) * len(WEIGHTS)
    expected = weighted_gradient(model, collate(data), eq2(weights))
    per_device = per_device * args.samples // 8
    if trainer == "weighted":
        weighter = build_weighter("EW", len(WEIGHTS), WEIGHTS)
        found = first_gradient(WeightedTrainer, model, data, collate, per_device, accumulation, weighter)
    elif trainer == "trainer":
        found = first_gradient(Trainer, model, data, without_tasks, per_device, accumulation, None, TrainingArguments)
    else:
        found = _sft_gradient(model, data, per_device, accumulation)
    return relative_error(found, expected)


def _sft_gradient(model: Any, data: list[dict[str, Any]], per_device: int, accumulation: int) -> Any:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    from perf.closed_form import first_gradient

    return first_gradient(
        SFTTrainer,
        model,
        Dataset.from_list([{"input_ids": one["ids"].tolist(), "labels": one["labels"].tolist()} for one in data]),
        without_tasks,
        per_device,
        accumulation,
        arguments=SFTConfig,
        settings={"dataset_kwargs": {"skip_prepare_dataset": True}, "gradient_checkpointing": False, "bf16": False},
        processing_class=blank_tokenizer(PreTrainedTokenizerFast),
    )


def blank_tokenizer(kind: type) -> Any:
    """A tokenizer for TRL to inspect; the samples are already tokenised."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    return kind(tokenizer_object=Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1})), pad_token="<pad>", eos_token="<eos>")


def random_samples(vocabulary: int, count: int) -> list[dict[str, Any]]:
    """Samples of 6 to 40 random tokens with 1 to all but one of them supervised: ids, labels, task."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    made = []
    for n in range(count):
        # The first tokens of a vocabulary may be special, and the last ones image tokens.
        ids = torch.randint(min(10, vocabulary // 4), vocabulary // 2, (draw(6, 41),), generator=generator)
        labels = ids.clone()
        labels[: draw(1, len(ids))] = IGNORE_INDEX
        made.append({"ids": ids, "labels": labels, "task": n % len(WEIGHTS)})
    return made


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch padded on the right, with task ids."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.as_tensor(one.get("ids", one.get("input_ids"))) for one in samples]
    labels = [torch.as_tensor(one["labels"]) for one in samples]
    length_B = torch.tensor([len(one) for one in ids])
    input_ids = pad_sequence(ids, batch_first=True)
    return {
        "input_ids": input_ids,
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
        "attention_mask": (torch.arange(input_ids.shape[1]) < length_B[:, None]).long(),
        "task_ids": torch.tensor([one.get("task", 0) for one in samples]),
    }


def without_tasks(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The batch for a trainer without tasks."""
    return {name: value for name, value in collate(samples).items() if name != "task_ids"}


def _on_two_processes(args: Any, trainer: str) -> float:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "perf.split_invariance", "--model", args.model, "--samples", str(args.samples)]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        with open(output, "w") as stream:
            done = subprocess.run([*command, "--rank-of", trainer], stdout=stream, stderr=subprocess.PIPE, check=False)
        if done.returncode:
            raise InputError(f"two processes of {trainer} failed: {done.stderr.decode()[-300:]}")
        lines = [line for line in output.read_text().splitlines() if line.startswith('{"error"')]
    return json.loads(lines[-1])["error"]


def _print(model: str, rows: dict[str, dict[str, float]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"gradient error, {model}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("trainer", *SPLITS, TWO_PROCESSES):
        table.add_column(column, justify="left" if column == "trainer" else "right", no_wrap=True)
    for name, errors in rows.items():
        table.add_row(TRAINERS[name], *(f"{error:.1e}" for error in errors.values()))
    Console(highlight=False, width=120).print(table)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hub name of a model of transformers 5")
    parser.add_argument("--samples", type=int, default=8, help="samples in the step, a multiple of 8")
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=list(TRAINERS), help="trainers to measure")
    parser.add_argument("--rank-of", choices=TRAINERS, help="run as one of two processes of this trainer")
    return parser


if __name__ == "__main__":
    run(main)
