"""The training flags: LLaVA's, transformers' and VisATB's (names in docs/training.md).

The parser needs neither torch nor transformers: the flags of transformers.TrainingArguments are in a table, made by
`python -m tests.transformers_flags` and compared with transformers by a test.
"""

import os
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType
from typing import Any, NoReturn, get_args, get_type_hints

from llava.train.flags import check_flags, flag_table
from visatb.benchmark import METHODS, load_benchmark
from visatb.cli import ArgumentParser
from visatb.errors import InputError
from visatb.lazy import lazily
from visatb.records import BAD_IMAGE_CHOICES
from visatb.sampling import PROPORTIONAL, check_sampling

# With transformers, whose class TrainingArguments extends.
__getattr__ = lazily(
    __name__, dict.fromkeys(("TrainingArguments", "parse_arguments"), "llava.train.training_arguments")
)

_EXAMPLE = (
    "example: python -m llava.train.train --model_name_or_path lmsys/vicuna-7b-v1.5 --version v1 "
    "--data_path train.json --image_folder images --vision_tower openai/clip-vit-large-patch14-336 "
    "--output_dir checkpoints/mine"
)
SINGLE_TASK = "all"  # the task of every record when no benchmark is given
ALIASES = {"VisATB_weights": "visatb_weights"}  # the reference's spelling


@dataclass
class ModelArguments:
    """Which model is trained, and which parts of it."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Base model: folder or Hub name."})
    version: str = field(default="v0", metadata={"help": "Conversation template: v1, plain, llava_llama_2, ..."})
    freeze_backbone: bool = field(default=False, metadata={"help": "Do not train the language model."})
    tune_mm_mlp_adapter: bool = field(default=False, metadata={"help": "Stage 1: train the projector alone."})
    freeze_mm_mlp_adapter: bool = field(default=False, metadata={"help": "Do not train the projector."})
    # None: those of a LLaVA checkpoint, else LLaVA's defaults (assembly.settle_vision).
    vision_tower: str | None = field(
        default=None, metadata={"help": "CLIP vision tower: folder or Hub name. Default: a LLaVA checkpoint's own."}
    )
    mm_vision_select_layer: int | None = field(
        default=None, metadata={"help": "Hidden state of the tower to use. Default: a LLaVA checkpoint's own, else -1."}
    )
    mm_vision_select_feature: str | None = field(
        default=None, metadata={"help": "patch or cls_patch. Default: a LLaVA checkpoint's own, else patch."}
    )
    pretrain_mm_mlp_adapter: str | None = field(default=None, metadata={"help": "mm_projector.bin of stage 1."})
    mm_projector_type: str | None = field(
        default=None,
        metadata={"help": "linear, mlpNx_gelu or identity. Default: a LLaVA checkpoint's own, else linear."},
    )
    mm_use_im_start_end: bool | None = field(
        default=None,
        metadata={"help": "Put <im_start> <im_end> around images. Default: a LLaVA checkpoint's own, else False."},
    )
    mm_use_im_patch_token: bool | None = field(
        default=None,
        metadata={"help": "Add <im_patch> to the vocabulary. Default: a LLaVA checkpoint's own, else True."},
    )


@dataclass
class DataArguments:
    """What it is trained on."""

    data_path: str | None = field(default=None, metadata={"help": "Annotation file (.json or .jsonl)."})
    image_folder: str | None = field(default=None, metadata={"help": "Folder that `image` fields are relative to."})
    image_aspect_ratio: str = field(default="square", metadata={"help": "square or pad."})
    lazy_preprocess: bool = field(default=False, metadata={"help": "Accepted for LLaVA's scripts; always lazy."})
    benchmark: str | None = field(default=None, metadata={"help": "Benchmark YAML: the tasks in id order."})
    bad_image: str = field(
        default="fail",
        metadata={"help": "Unreadable image: fail, or skip (another record of the same task, counted)."},
    )


@dataclass
class TrainingFlags:
    """How it is trained: LLaVA's arguments and the task weighting; `TrainingArguments` adds transformers'."""

    output_dir: str | None = field(default=None, metadata={"help": "Where the model goes."})
    cache_dir: str | None = field(default=None, metadata={"help": "Cache of Hub downloads."})
    optim: str = field(default="adamw_torch", metadata={"help": "Optimizer, as in transformers."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave it False: batches are complete."})
    report_to: list[str] = field(
        default_factory=lambda: ["tensorboard"], metadata={"help": "Trackers: tensorboard, wandb, none."}
    )
    save_safetensors: bool = field(default=True, metadata={"help": "model.safetensors, else pytorch_model.bin."})
    model_max_length: int = field(default=512, metadata={"help": "Longest sequence, image patches included."})
    double_quant: bool = field(default=True, metadata={"help": "QLoRA: quantise the quantisation constants."})
    quant_type: str = field(default="nf4", metadata={"help": "QLoRA: fp4 or nf4."})
    bits: int = field(default=16, metadata={"help": "QLoRA: 4, 8, or 16 for none."})
    lora_enable: bool = field(default=False, metadata={"help": "Train LoRA adapters."})
    lora_r: int = field(default=64, metadata={"help": "LoRA rank."})
    lora_alpha: int = field(default=16, metadata={"help": "LoRA scale."})
    lora_dropout: float = field(default=0.05, metadata={"help": "LoRA dropout."})
    lora_weight_path: str = field(default="", metadata={"help": "Folder of a LoRA training to start from."})
    lora_bias: str = field(default="none", metadata={"help": "none, all or lora_only; Llama has no biases."})
    mm_projector_lr: float | None = field(default=None, metadata={"help": "Learning rate of the projector."})
    group_by_modality_length: bool = field(default=False, metadata={"help": "Steps of one modality, by length."})
    num_tasks: int | None = field(default=None, metadata={"help": "Checked against the benchmark's tasks."})
    weight_method: str = field(
        default="EW",
        metadata={
            "help": f"Task weighting: {', '.join(METHODS)}, or a class of your own as module:Class or file.py:Class "
            "(docs/weighting_strategies.md)."
        },
    )
    weight_window: int | None = field(default=None, metadata={"help": "Steps of a window: DWA (25), IGB (100)."})
    weight_temperature: float | None = field(default=None, metadata={"help": "Temperature of the softmax: DWA (2)."})
    weight_lr: float | None = field(default=None, metadata={"help": "Learning rate of the weights: UW (1e-3)."})
    weight_reference_history: bool | None = field(
        default=None, metadata={"help": "DWA, IGB: absent tasks enter the history as loss 0, as in the reference."}
    )
    visatb_weights: list[float] | None = field(
        default=None, metadata={"help": "One weight per task, in id order; ones if left out."}
    )
    task_sampling: str = field(
        default=PROPORTIONAL,
        metadata={
            "help": "How often tasks are drawn: proportional to their records, sqrt, temperature:T, or weights (those "
            "of --visatb_weights times the records, at equal loss weights)."
        },
    )
    save_minutes: float | None = field(default=None, metadata={"help": "Save this often by the clock as well."})
    loss_normalization: str = field(
        default="step", metadata={"help": "step: Eq. 2 over the optimizer step. batch: per micro-batch, averaged."}
    )
    padded_batches: bool = field(
        default=False, metadata={"help": "Pad the samples of a micro-batch to the longest, as LLaVA does."}
    )
    decay_norm_weights: bool = field(
        default=False, metadata={"help": "Decay RMSNorm weights too, as transformers 4.31.0 and the reference do."}
    )


class _Parser(ArgumentParser):
    """The parser, whose errors are one line without the usage of 150 flags."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. See --help.")


def make_parser() -> ArgumentParser:
    """The parser of all flags, as transformers' HfArgumentParser makes it of the three dataclasses."""
    parser = _Parser(usage="%(prog)s [flags]", description="Train LLaVA with task weights.", epilog=_EXAMPLE)
    for group, kind in (("model", ModelArguments), ("data", DataArguments), ("training", TrainingFlags)):
        flags, types = parser.add_argument_group(group), get_type_hints(kind)
        for item in fields(kind):
            default = item.default if item.default_factory is MISSING else item.default_factory()
            add_flag(flags, item.name, _kind_of(types[item.name]), default, item.metadata["help"])
    theirs = parser.add_argument_group("training, of transformers 4.31.0 (see its TrainingArguments)")
    for flag in flag_table()["flags"]:
        add_flag(theirs, flag["name"], flag["kind"], flag["default"], flag["kind"], flag.get("choices"))
    return parser


def add_flag(
    parser: Any, name: str, kind: str, default: Any, description: str, choices: Sequence[str] | None = None
) -> None:
    """Declare a flag, and `--no_NAME` for a truth value that is True by default.

    Args:
        parser: parser or group.
        name: of flag and field.
        kind: int, float, str or bool; with an s for several values, "bool or none" where None is the default.
        default: its value if absent.
        description: shown by --help.
        choices: the values there are; None accepts any.
    """
    kinds = {"int": int, "float": float, "str": str, "bool": _truth, "bool or none": _truth}
    given: dict[str, Any] = {"type": kinds.get(kind) or kinds[kind.removesuffix("s")], "default": default}
    if kind == "bool":
        given |= {"nargs": "?", "const": True}
    elif kind not in kinds:
        given["nargs"] = "+"
    parser.add_argument(f"--{name}", help=description, choices=choices, **given)
    if kind == "bool" and default is True:
        parser.add_argument(f"--no_{name}", dest=name, action="store_false", default=False, help=f"--{name} False")


def _kind_of(annotation: Any) -> str:
    """The kind, as in `add_flag`, of a field's type."""
    inner = next((part for part in get_args(annotation) if part is not NoneType), annotation)
    if get_args(inner) or annotation == list[str]:
        return f"{(get_args(inner) or get_args(annotation))[0].__name__}s"
    return "bool or none" if inner is bool and annotation is not bool else inner.__name__


def _truth(text: str) -> bool:
    if text.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise ArgumentTypeError(f"must be True or False, got {text[:200]!r}")


def parse_flags(argv: Sequence[str] | None = None) -> tuple[Namespace, dict[str, Any]]:
    """All flags of a command line, accepted with `-` and `_`, and those that differ from their defaults.

    Raises:
        InputError: an unknown flag, a missing one, or a value that cannot be.
    """
    parser = make_parser()
    words = [part for word in (sys.argv[1:] if argv is None else argv) for part in _canonical_words(word)]
    flags, unknown = parser.parse_known_args(words)
    given = {name: value for name, value in vars(flags).items() if value != parser.get_default(name)}
    check_flags(given)  # before transformers' classes act on them
    if unknown:
        raise InputError(f"unknown arguments: {' '.join(unknown)}. See --help.")
    for name in ("model_name_or_path", "data_path", "output_dir"):
        if not getattr(flags, name):
            raise InputError(f"--{name} must be given. See --help.")
    _check(flags)
    return flags, given


def load_tasks(benchmark: str | None, num_tasks: int | None = None) -> list[str]:
    """Task names in id order, from the benchmark file; one task for all records without it.

    Raises:
        InputError: `--num_tasks` that does not fit.
    """
    tasks = load_benchmark(benchmark).task_names if benchmark else [SINGLE_TASK]
    if num_tasks is not None and num_tasks != len(tasks):
        source = benchmark or "no --benchmark was given, so all records are one task"
        raise InputError(f"num_tasks must be {len(tasks)} ({source}), got {num_tasks}. Leave --num_tasks out.")
    return tasks


def _canonical_words(word: str) -> list[str]:
    """A word of the command line with its flag spelled as declared; a list of weights in one word becomes several."""
    if not word.startswith("--"):
        return [word]
    flag, equals, value = word[2:].partition("=")
    flag = flag.replace("-", "_")
    flag = ALIASES.get(flag, flag)
    if flag == "visatb_weights" and equals:
        return [f"--{flag}", *_numbers(value)]
    return [f"--{flag}{equals}{value}"]


def _numbers(text: str) -> list[str]:
    """The numbers of a list with spaces or commas, so that no flag can hide in it."""
    words = text.replace(",", " ").split()
    try:
        numbers = [str(float(word)) for word in words]
    except ValueError:
        numbers = []
    if not numbers:
        raise InputError(
            f"visatb_weights (VISATB_WEIGHTS) must be numbers with spaces or commas between, got {text[:200]!r}. "
            "Write one per task."
        )
    return numbers


def _check(flags: Namespace) -> None:
    if flags.image_aspect_ratio not in ("pad", "square"):
        raise InputError(f"image_aspect_ratio must be pad or square, got {flags.image_aspect_ratio!r}. Choose one.")
    if flags.bad_image not in BAD_IMAGE_CHOICES:
        raise InputError(f"bad_image must be fail or skip, got {flags.bad_image!r}. Choose one.")
    _check_trained_parts(flags)
    _check_sampling(flags)
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        if getattr(flags, name) < 1:
            raise InputError(f"{name} must be at least 1, got {getattr(flags, name)}. Raise it.")
    if flags.max_steps <= 0 and not flags.num_train_epochs > 0:
        raise InputError(f"num_train_epochs must be above 0, got {flags.num_train_epochs}. Raise it.")
    if flags.resume_from_checkpoint:
        raise InputError("resume_from_checkpoint is not needed: the same command resumes. Leave it out.")
    if flags.evaluation_strategy != "no":
        raise InputError("evaluation_strategy must be no: training has no validation set. Score answers with eval/.")
    if flags.model_max_length < 1:
        raise InputError(f"model_max_length must be at least 1, got {flags.model_max_length}. Raise it.")
    if flags.deepspeed and flags.no_cuda:
        raise InputError("--no_cuda keeps transformers from setting DeepSpeed up. Leave out one of the two.")
    _check_quantisation(flags)


def _check_trained_parts(flags: Namespace) -> None:
    if flags.tune_mm_mlp_adapter:
        for name, given in (
            ("lora_enable", flags.lora_enable),
            ("freeze_mm_mlp_adapter", flags.freeze_mm_mlp_adapter),
        ):
            if given:
                raise InputError(f"tune_mm_mlp_adapter trains the projector alone. Leave out it or --{name}.")
        if not flags.vision_tower:
            raise InputError("tune_mm_mlp_adapter trains the projector of a vision tower. Set --vision_tower.")
    if flags.lora_weight_path and not flags.lora_enable:
        raise InputError("lora_weight_path is an adapter to start from. Set --lora_enable True or leave it out.")
    if flags.lora_enable:
        _check_lora(flags)


def _check_sampling(flags: Namespace) -> None:
    kind = check_sampling(flags.task_sampling, flags.visatb_weights, flags.weight_method)
    if kind != PROPORTIONAL and (flags.group_by_length or flags.group_by_modality_length):
        raise InputError("task_sampling draws the tasks of an epoch, without grouping. Leave out --group_by_...")


def _check_lora(flags: Namespace) -> None:
    folder = flags.lora_weight_path
    if folder and not os.path.isdir(folder) and folder.count("/") != 1:  # else it may be a Hub name
        raise InputError(f"lora_weight_path {folder}: no such folder. Give the folder of a LoRA training.")
    if flags.lora_r < 1:
        raise InputError(f"lora_r must be at least 1, got {flags.lora_r}. Raise it.")
    if not 0 <= flags.lora_dropout < 1:
        raise InputError(f"lora_dropout must be at least 0 and below 1, got {flags.lora_dropout}. Change it.")
    if flags.lora_bias not in ("none", "all", "lora_only"):
        raise InputError(f"lora_bias must be none, all or lora_only, got {flags.lora_bias!r}. Choose one.")


def _check_quantisation(flags: Namespace) -> None:
    if flags.bits == 16:
        return
    if flags.bits not in (4, 8):
        raise InputError(f"bits must be 4, 8 or 16 (not quantised), got {flags.bits}. Choose one.")
    if flags.quant_type not in ("fp4", "nf4"):
        raise InputError(f"quant_type must be fp4 or nf4, got {flags.quant_type!r}. Choose one.")
    if not (flags.lora_enable or flags.tune_mm_mlp_adapter):
        raise InputError(f"a model in {flags.bits} bits cannot be trained itself. Set --lora_enable True.")
