"""Train a current vision-language model with task weights: the entry point of scripts_visatb/finetune_hf.sh.

    python -m visatb_hf.train --model_name_or_path Qwen/Qwen2-VL-2B-Instruct --data_path ... --image_folder ... \
        --output_dir ... --benchmark scripts_visatb/benchmarks/academic_qwen2vl.yaml --visatb_weights "1 1 1 1 1 1 1 1"

Run the same command again after an interruption and it resumes; a finished run is not changed. Exit codes: 0 done,
1 stopped (disk, loss), 2 refused, 143 and 130 saved and stopped after SIGTERM and SIGINT (docs/interruptions.md).
"""

from collections.abc import Sequence

from visatb.cli import run
from visatb.record_stream import stream_records
from visatb_hf.arguments import parse_flags, training_arguments

SINGLE_TASK = "all"


def tasks_of(benchmark: str | None) -> list[str]:
    """Task names in id order, from the benchmark file; one task for all records without it."""
    from visatb.benchmark import load_benchmark

    return load_benchmark(benchmark).task_names if benchmark else [SINGLE_TASK]


def train(argv: Sequence[str] | None = None) -> int:
    """Run one training from a command line; returns the exit code.

    Raises:
        InputError: invalid flags, weights, records, images or folders, found before the model loads.
    """
    flags, rest = parse_flags(argv)
    # Wrong paths end here, before torch and transformers are imported.
    tasks = tasks_of(flags.benchmark)
    next(stream_records(flags.data_path))

    from visatb_hf.models import refuse_wrong_environment

    refuse_wrong_environment(flags.model_name_or_path)
    args = training_arguments(flags, rest)

    from visatb_hf.training import run_training

    return run_training(flags, args, tasks)


def main(argv: Sequence[str] | None = None) -> int:
    """Train once as a process of its own, or as one rank of several; returns the exit code."""
    code = train(argv)
    from transformers_patch.run_folder import leave_together

    leave_together()
    return code


if __name__ == "__main__":
    run(main)
