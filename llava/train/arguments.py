"""The training flags: LLaVA's, transformers' and VisATB's (names in docs/training.md)."""

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import NoReturn

import torch
import transformers
from transformers import HfArgumentParser

from llava.train.flags import check_flags, without_effect
from visatb.errors import InputError

_EXAMPLE = (
    "example: python -m llava.train.train --model_name_or_path lmsys/vicuna-7b-v1.5 --version v1 "
    "--data_path train.json --image_folder images --vision_tower openai/clip-vit-large-patch14-336 "
    "--output_dir checkpoints/mine"
)
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
class TrainingArguments(transformers.TrainingArguments):
    """How it is trained: transformers' arguments, LLaVA's, and the task weighting."""

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
            "help": "Task weighting: EW, EWTB (TLA), RLW, DWA, IGB (IGBv1), UW, or a class of your own as "
            "module:Class or file.py:Class (docs/weighting_strategies.md)."
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


class _Parser(HfArgumentParser):
    """transformers' parser, whose errors are one line instead of the usage of 150 flags.

    Attributes:
        given: the flags that were given another value than their default.
    """

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. See --help.")

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: Namespace | None = None
    ) -> tuple[Namespace, list[str]]:
        found, rest = super().parse_known_args(args, namespace)
        self.given = {name: value for name, value in vars(found).items() if value != self.get_default(name)}
        check_flags(self.given)  # before transformers' classes act on them
        return found, rest


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """The three argument groups of a command line; flags are accepted with `-` and `_`.

    Raises:
        InputError: an unknown flag, a missing one, or a value that transformers refuses.
    """
    parser = _Parser((ModelArguments, DataArguments, TrainingArguments), allow_abbrev=False, epilog=_EXAMPLE)
    given = [part for word in (sys.argv[1:] if argv is None else argv) for part in _canonical_words(word)]
    try:
        model, data, training, unknown = parser.parse_args_into_dataclasses(
            given, return_remaining_strings=True, look_for_args_file=False
        )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{error} See --help.") from None
    if unknown:
        raise InputError(f"unknown arguments: {' '.join(unknown)}. See --help.")
    required = {
        "--model_name_or_path": model.model_name_or_path,
        "--data_path": data.data_path,
        "--output_dir": training.output_dir,
    }
    for flag, value in required.items():
        if not value:
            raise InputError(f"{flag} must be given. See --help.")
    _check(model, data, training)
    if training.process_index == 0:
        for name, reason in without_effect(parser.given).items():
            print(f"warning: --{name} has no effect: {reason}.", file=sys.stderr)
    return model, data, training


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


def _check(model: ModelArguments, data: DataArguments, training: TrainingArguments) -> None:
    if data.image_aspect_ratio not in ("pad", "square"):
        raise InputError(f"image_aspect_ratio must be pad or square, got {data.image_aspect_ratio!r}. Choose one.")
    if data.bad_image not in ("fail", "skip", "replace"):
        raise InputError(f"bad_image must be fail or skip, got {data.bad_image!r}. Choose one.")
    _check_trained_parts(model, training)
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        if getattr(training, name) < 1:
            raise InputError(f"{name} must be at least 1, got {getattr(training, name)}. Raise it.")
    if training.max_steps <= 0 and not training.num_train_epochs > 0:
        raise InputError(f"num_train_epochs must be above 0, got {training.num_train_epochs}. Raise it.")
    if training.resume_from_checkpoint:
        raise InputError("resume_from_checkpoint is not needed: the same command goes on by itself. Leave it out.")
    if training.evaluation_strategy != "no":
        raise InputError("evaluation_strategy must be no: training has no validation set. Score answers with eval/.")
    if training.model_max_length < 1:
        raise InputError(f"model_max_length must be at least 1, got {training.model_max_length}. Raise it.")
    _check_deepspeed(training)
    _check_quantisation(model, training)


def _check_trained_parts(model: ModelArguments, training: TrainingArguments) -> None:
    if model.tune_mm_mlp_adapter:
        for name, given in (
            ("lora_enable", training.lora_enable),
            ("freeze_mm_mlp_adapter", model.freeze_mm_mlp_adapter),
        ):
            if given:
                raise InputError(f"tune_mm_mlp_adapter trains the projector alone. Leave out it or --{name}.")
        if not model.vision_tower:
            raise InputError("tune_mm_mlp_adapter trains the projector of a vision tower. Set --vision_tower.")
    if training.lora_weight_path and not training.lora_enable:
        raise InputError("lora_weight_path is an adapter to start from. Set --lora_enable True or leave it out.")
    if training.lora_enable:
        _check_lora(training)


def _check_lora(training: TrainingArguments) -> None:
    folder = training.lora_weight_path
    if folder and not os.path.isdir(folder) and folder.count("/") != 1:  # else it may be a Hub name
        raise InputError(f"lora_weight_path {folder}: no such folder. Give the folder of a LoRA training.")
    if training.lora_r < 1:
        raise InputError(f"lora_r must be at least 1, got {training.lora_r}. Raise it.")
    if not 0 <= training.lora_dropout < 1:
        raise InputError(f"lora_dropout must be at least 0 and below 1, got {training.lora_dropout}. Change it.")
    if training.lora_bias not in ("none", "all", "lora_only"):
        raise InputError(f"lora_bias must be none, all or lora_only, got {training.lora_bias!r}. Choose one.")


def _check_quantisation(model: ModelArguments, training: TrainingArguments) -> None:
    if training.bits == 16:
        return
    if training.bits not in (4, 8):
        raise InputError(f"bits must be 4, 8 or 16 (not quantised), got {training.bits}. Choose one.")
    if training.quant_type not in ("fp4", "nf4"):
        raise InputError(f"quant_type must be fp4 or nf4, got {training.quant_type!r}. Choose one.")
    if not (training.lora_enable or model.tune_mm_mlp_adapter):
        raise InputError(f"a model in {training.bits} bits cannot be trained itself. Set --lora_enable True.")
    deepspeed = getattr(training, "hf_deepspeed_config", None)
    if deepspeed is not None and deepspeed.is_zero3():
        raise InputError(f"{training.deepspeed}: ZeRO-3 cannot split a model in {training.bits} bits. Use zero2.json.")
    if training.no_cuda or not torch.cuda.is_available():
        raise InputError(f"--bits {training.bits} needs an NVIDIA GPU, and none is in use. Leave out --bits.")
    if find_spec("bitsandbytes") is None:
        raise InputError(f"--bits {training.bits} needs bitsandbytes. Run: pip install -e '.[quantisation]'")


def _check_deepspeed(training: TrainingArguments) -> None:
    if training.deepspeed and training.no_cuda:
        raise InputError("--no_cuda keeps transformers from setting DeepSpeed up. Leave out one of the two.")
    deepspeed = getattr(training, "hf_deepspeed_config", None)
    gather = "zero_optimization.stage3_gather_16bit_weights_on_model_save"
    if deepspeed is not None and deepspeed.is_zero3() and not deepspeed.is_true(gather):
        raise InputError(f"{training.deepspeed}: {gather} must be true, or no whole model is saved. Set it.")
