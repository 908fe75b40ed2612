"""Measure inter-task contributions from gradients at one model, without training a model per task (an approximation).

At a model that has seen a little of every task (`mini`), the gradient of each task's training loss is compared with
that of every task's validation loss: how much a step on task i lowers the loss of j, as a share of what a step on j
does (transformers_patch/first_order.py). The difficulty of tasks cannot come from this: `visatb weigh --contributions`
takes it from scores, of the base model and `mini` or of single-task models.

One process on one device computes about 2 * samples_per_task * tasks forward and backward passes in the model's own
dtype, and holds the model, its gradient and one more tensor of its size. Sketches are kept beside the output until it
is written; the same command resumes from them.
"""

import shutil
from pathlib import Path

from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import refuse_unwritable, write_json

_EXAMPLE = """example:
  python -m llava.train.contributions --model-path checkpoints/mini --data_path subsets/academic-mini_train-15k.json \\
      --benchmark scripts_visatb/benchmarks/academic.yaml --output gradients.json
  visatb weigh --contributions gradients.json --scores base_and_mini.csv --output weights.json
"""


def main() -> int:
    """Command line."""
    options = build_parser().parse_args()
    for name in ("samples_per_task", "batch_size", "step_size", "steps", "buckets"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} must be at least 1, got {getattr(options, name)}. Raise it.")
    refuse_unwritable([options.output], [options.data_path, options.benchmark])
    from llava.train.task_gradients import measure  # imports torch

    parts = Path(f"{options.output}.parts")
    content = measure(options, parts)
    write_json(options.output, content)
    shutil.rmtree(parts, ignore_errors=True)
    print(f"contributions of {len(content['tasks'])} tasks or groups  {options.output}")
    return 0


def build_parser() -> ArgumentParser:
    """The flags of the command."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    add = parser.add_argument
    add("--model-path", required=True, help="folder of the model, LLaVA's `mini`")
    add("--model-base", help="base model of a LoRA or projector-only folder")
    add("--benchmark", required=True, type=Path, help="benchmark YAML: the tasks, their files and folders")
    add("--data_path", required=True, type=Path, help="what the model was trained on: the preconditioner's steps")
    add("--output", required=True, type=Path, help="JSON file for `visatb weigh --contributions`")
    add("--samples_per_task", type=int, default=512, help="records of each task's training and validation files")
    add("--batch_size", type=int, default=8, help="samples of a forward pass")
    add("--step_size", type=int, default=128, help="samples of an optimizer step of the model's training")
    add("--steps", type=int, default=16, help="steps that the preconditioner is averaged over")
    add("--buckets", type=int, default=2**18, help="size of a gradient's sketch")
    add("--model_max_length", type=int, default=2048, help="longest sequence, image patches included")
    add("--version", default="v1", help="conversation template")
    add("--image_aspect_ratio", choices=("pad", "square"), default="pad", help="as in training")
    add("--device", help="cpu, cuda or cuda:N; default: a GPU if there is one")
    add("--dtype", choices=("bf16", "fp16", "fp32"), help="default: the checkpoint's on a GPU, fp32 on a CPU")
    add("--seed", type=int, default=0, help="of the records chosen and of the sketches")
    return parser


if __name__ == "__main__":
    run(main)
