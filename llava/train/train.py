"""Train LLaVA with task weights: the entry point of all finetune scripts.

    python -m llava.train.train --model_name_or_path ... --data_path ... --image_folder ... --output_dir ... \
        --benchmark scripts_visatb/benchmarks/demo.yaml --visatb_weights 1 1 1 1 1 1

Run the same command again after an interruption and it resumes; a finished run is not changed. Exit codes: 0 done,
1 stopped (disk, loss), 2 refused, 143 and 130 saved and stopped after SIGTERM and SIGINT (docs/interruptions.md).
"""

from collections.abc import Sequence

from llava.train.arguments import DataArguments, ModelArguments, load_tasks, parse_flags
from visatb.cli import run
from visatb.lazy import lazily
from visatb.record_stream import stream_records

__all__ = ["DataArguments", "ModelArguments", "train"]
__getattr__ = lazily(
    __name__,
    {
        "LazySupervisedDataset": "llava.data.dataset:SupervisedDataset",
        "TrainingArguments": "llava.train.training_arguments",
        "run_to_the_end": "llava.train.training",
    },
)


def train(argv: Sequence[str] | None = None) -> int:
    """Run one training from a command line; returns the exit code.

    Raises:
        InputError: invalid flags, weights, records, images or folders, found before the model loads.
    """
    flags, given = parse_flags(argv)
    # Wrong paths end here, before torch and transformers are imported.
    tasks = load_tasks(flags.benchmark, flags.num_tasks)
    next(stream_records(flags.data_path))

    from llava.train.training import run_training
    from llava.train.training_arguments import typed

    return run_training(*typed(flags, given), tasks)


def main(argv: Sequence[str] | None = None) -> int:
    """Be a process, or one rank of several, that trains once and ends; returns the exit code."""
    code = train(argv)
    from llava.train.run_folder import leave_together

    leave_together()
    return code


if __name__ == "__main__":
    run(main)
