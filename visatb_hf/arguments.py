"""Training flags for current models: this project's own; all others belong to transformers' TrainingArguments."""

import math
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from visatb.benchmark import METHODS
from visatb.cli import ArgumentParser
from visatb.errors import InputError
from visatb.sampling import PROPORTIONAL, RULE, check_sampling

if TYPE_CHECKING:
    from transformers import TrainingArguments

_EXAMPLE = """All flags of transformers 5's TrainingArguments are accepted as well (--learning_rate, --deepspeed, ...).

example:
  python -m visatb_hf.train --model_name_or_path Qwen/Qwen2-VL-2B-Instruct --data_path train.json \\
      --image_folder images --benchmark scripts_visatb/benchmarks/academic_qwen2vl.yaml --output_dir checkpoints/mine
"""
_UNSUPPORTED = {
    "resume_from_checkpoint": "the same command resumes",
    "do_eval": "nothing is evaluated during training",
    "eval_strategy": "nothing is evaluated during training",
    "load_best_model_at_end": "nothing is evaluated during training",
    "push_to_hub": "upload the finished folder",
    "auto_find_batch_size": "it would change the step",
    "dataloader_drop_last": "no sample is dropped",
    "save_only_model": "the run could not resume",
    "use_liger_kernel": "it computes its own loss",
    "label_names": "batches are complete",
    "train_sampling_strategy": "the order is a function of the seed",
    "fsdp": "use DeepSpeed (scripts_visatb/zero3.json)",
}
# Fields of TrainingArguments that affect the result.
OF_THE_RESULT = ("num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs")
OF_THE_RESULT += ("warmup_steps", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
OF_THE_RESULT += ("max_grad_norm", "bf16", "fp16", "seed", "data_seed", "neftune_noise_alpha")
# Flags below that affect the result; the contents of files are compared separately.
OF_THE_MODEL = ("model_name_or_path", "model_max_length", "min_pixels", "max_pixels", "weight_method", "visatb_weights")
OF_THE_MODEL += ("weight_window", "weight_temperature", "weight_lr", "freeze_vision_tower", "freeze_projector")
OF_THE_MODEL += ("task_sampling", "lora_enable", "lora_r", "lora_alpha", "lora_dropout", "bits")


def truth(text: str) -> bool:
    """A truth value as transformers' flags take it."""
    if text.lower() in ("true", "1", "yes", "y", "t"):
        return True
    if text.lower() in ("false", "0", "no", "n", "f"):
        return False
    raise ArgumentTypeError(f"must be True or False, got {text[:200]!r}")


def numbers(text: str) -> list[float]:
    """Numbers separated by spaces or commas."""
    try:
        return [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise ArgumentTypeError(f"must be numbers separated by spaces, got {text[:200]!r}") from None


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. See --help.")


def make_parser() -> ArgumentParser:
    """The parser of this project's flags."""
    parser = _Parser(prog="python -m visatb_hf.train", description="Train a current model.", epilog=_EXAMPLE)
    add_model_flags(parser)
    parser.add_argument("--output_dir", required=True, help="where the model goes")
    parser.add_argument("--overwrite_output_dir", type=truth, default=False, help="discard an earlier run there")
    parser.add_argument("--weight_method", default="EW", help=f"{', '.join(METHODS)}, or module:Class, file.py:Class")
    parser.add_argument("--visatb_weights", type=numbers, nargs="+", help="one weight per task, in id order")
    parser.add_argument("--task_sampling", default=PROPORTIONAL, help=f"how often tasks are drawn: {RULE}")
    parser.add_argument("--weight_window", type=int, help="steps of a window: DWA, IGB")
    parser.add_argument("--weight_temperature", type=float, help="temperature of DWA")
    parser.add_argument("--weight_lr", type=float, help="learning rate of UW's weights")
    parser.add_argument("--freeze_vision_tower", type=truth, default=True, help="do not train the vision tower")
    parser.add_argument("--freeze_projector", type=truth, default=False, help="do not train the projector (merger)")
    parser.add_argument("--lora_enable", type=truth, default=False, help="adapters on the language model alone")
    parser.add_argument("--lora_r", type=int, default=128, help="LoRA rank")
    parser.add_argument("--lora_alpha", type=int, default=256, help="LoRA scale")
    parser.add_argument("--lora_dropout", type=float, default=0.05, help="LoRA dropout")
    parser.add_argument("--bits", type=int, default=16, choices=(4, 8, 16), help="QLoRA: base in 4 or 8 bits")
    return parser


def add_model_flags(parser: ArgumentParser) -> None:
    """The flags that training and `visatb check --model` share: model, data, how samples are read."""
    parser.add_argument("--model_name_or_path", required=True, help="folder or Hub name of a vision-language model")
    parser.add_argument("--data_path", required=True, help="annotation file")
    parser.add_argument("--image_folder", help="folder that `image` fields are relative to")
    parser.add_argument("--benchmark", help="benchmark YAML: the tasks; without it all records are one task")
    parser.add_argument("--chat_template", help="file of a Jinja template used instead of the model's own")
    parser.add_argument("--model_max_length", type=int, default=2048, help="longest sample, image tokens included")
    parser.add_argument("--min_pixels", type=int, help="images are enlarged to at least this area")
    parser.add_argument("--max_pixels", type=int, help="images are reduced to at most this area")


def check_model_flags(flags: Namespace) -> None:
    """Refuse invalid values of the shared flags. Raises InputError naming the flag."""
    for name in ("model_max_length", "min_pixels", "max_pixels"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, got {value}. Raise it.")
    if flags.min_pixels and flags.max_pixels and flags.min_pixels > flags.max_pixels:
        raise InputError(f"min_pixels must be at most max_pixels, got {flags.min_pixels} and {flags.max_pixels}.")


def parse_flags(argv: Sequence[str] | None = None) -> tuple[Namespace, list[str]]:
    """This project's flags, and the words left for TrainingArguments.

    Raises:
        InputError: a missing flag or an invalid value.
    """
    flags, rest = make_parser().parse_known_args(argv)
    flags.visatb_weights = [w for part in flags.visatb_weights or [] for w in part] or None
    check_model_flags(flags)
    check_sampling(flags.task_sampling, flags.visatb_weights, flags.weight_method)
    if flags.lora_enable and (flags.lora_r < 1 or not 0 <= flags.lora_dropout < 1):
        raise InputError("lora_r must be at least 1, and lora_dropout at least 0 and below 1. Change them.")
    if flags.bits != 16 and not flags.lora_enable:
        raise InputError(f"a model in {flags.bits} bits cannot be trained itself. Set --lora_enable True.")
    return flags, rest


def training_arguments(flags: Namespace, rest: Sequence[str]) -> "TrainingArguments":
    """transformers' arguments.

    Raises:
        InputError: unknown flags or unsupported settings.
    """
    import torch
    from transformers import HfArgumentParser, TrainingArguments

    parser = HfArgumentParser(TrainingArguments, allow_abbrev=False)
    parser.error = _refuse
    words = [
        f"--{w[2:].partition('=')[0].replace('-', '_')}{''.join(w.partition('=')[1:])}" if w[:2] == "--" else w
        for w in rest
    ]
    fixed = ["--output_dir", flags.output_dir, "--remove_unused_columns", "False"]
    if not torch.accelerator.is_available():  # otherwise ranks on a machine without one do not form a group
        fixed += ["--use_cpu", "True"]
    args, unknown = parser.parse_args_into_dataclasses([*words, *fixed], return_remaining_strings=True)
    if unknown:
        raise InputError(f"unknown arguments: {' '.join(unknown)}. See --help.")
    for name, why in _UNSUPPORTED.items():
        default = TrainingArguments.__dataclass_fields__[name].default
        value = getattr(args, name)
        if value not in (default, None, False, []) and str(getattr(value, "value", value)) != "no":
            raise InputError(f"--{name} is not supported: {why}. Leave it out.")
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        if getattr(args, name) < 1:
            raise InputError(f"{name} must be at least 1, got {getattr(args, name)}. Raise it.")
    if args.max_steps <= 0 and not 0 < args.num_train_epochs < math.inf:
        raise InputError(f"num_train_epochs must be above 0, got {args.num_train_epochs}. Raise it.")
    if args.ddp_find_unused_parameters is None:  # a trained tower may have layers beyond the one whose output is used
        args.ddp_find_unused_parameters = not (flags.freeze_vision_tower or flags.lora_enable)
    return args


def _refuse(message: str) -> NoReturn:
    raise InputError(f"{message}. See --help.")
