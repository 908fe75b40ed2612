"""`TrainingArguments`: the training flags together with transformers', whose class sets devices and DeepSpeed up."""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any

import torch
import transformers

from llava.train.arguments import DataArguments, ModelArguments, TrainingFlags, parse_flags
from llava.train.flags import without_effect
from visatb.errors import InputError


@dataclass
class TrainingArguments(TrainingFlags, transformers.TrainingArguments):
    """How it is trained: transformers' arguments, LLaVA's, and the task weighting."""


def check_machine(training: TrainingArguments) -> None:
    """Refuse settings that the DeepSpeed configuration or the machine does not support.

    Raises:
        InputError: naming the flag.
    """
    deepspeed = getattr(training, "hf_deepspeed_config", None)
    zero3 = deepspeed is not None and deepspeed.is_zero3()
    gather = "zero_optimization.stage3_gather_16bit_weights_on_model_save"
    if zero3 and not deepspeed.is_true(gather):
        raise InputError(f"{training.deepspeed}: {gather} must be true to save the full model. Set it.")
    if training.bits == 16:
        return
    if zero3:
        raise InputError(f"{training.deepspeed}: ZeRO-3 cannot split a model in {training.bits} bits. Use zero2.json.")
    if training.no_cuda or not torch.cuda.is_available():
        raise InputError(f"--bits {training.bits} needs an NVIDIA GPU, and none is in use. Leave out --bits.")
    if find_spec("bitsandbytes") is None:
        raise InputError(f"--bits {training.bits} needs bitsandbytes. Run: pip install -e '.[quantisation]'")


def typed(flags: Namespace, given: Mapping[str, Any]) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """The three argument groups, of what `parse_flags` returns.

    Raises:
        InputError: a value that transformers refuses, or that this machine cannot do.
    """

    def make(kind: type) -> Any:
        return kind(**{item.name: getattr(flags, item.name) for item in fields(kind) if item.init})

    try:
        model, data, training = make(ModelArguments), make(DataArguments), make(TrainingArguments)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{error} See --help.") from None
    check_machine(training)
    if training.process_index == 0:
        for name, reason in without_effect(given).items():
            print(f"warning: --{name} has no effect: {reason}.", file=sys.stderr)
    return model, data, training


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """The three argument groups of a command line.

    Raises:
        InputError: as `parse_flags` and `typed`.
    """
    return typed(*parse_flags(argv))
