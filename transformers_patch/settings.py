"""Checks of transformers' settings that are incompatible with task weights."""

import os
import shutil
from importlib.util import find_spec

import transformers

from transformers_patch.progress import check_trackers

STEP, BATCH = "step", "batch"
SMALL_MICRO_BATCH = 8
_COMPILERS = ("c++", "g++", "gcc", "clang")


def check_settings(args: transformers.TrainingArguments, loss_normalization: str) -> None:
    """Refuse settings that would invalidate the task weights.

    Raises:
        ValueError: an unknown normalisation, "batch" with one sample per micro-batch, label smoothing, a batch size
            that changes on its own, FSDP, several GPUs in one process, fp16 with adamw_torch_fused, a compilation
            that could only fail, or a tracker that is not installed.
    """
    check_trackers(args.report_to)
    per_device_batch = args.per_device_train_batch_size
    if loss_normalization not in (STEP, BATCH):
        raise ValueError(f"loss_normalization must be step or batch, got {loss_normalization!r}. Choose one.")
    if loss_normalization == BATCH and per_device_batch == 1:
        raise ValueError(
            "loss_normalization=batch needs a per-device batch above 1: task weights cancel out of a micro-batch "
            "of one sample. Use loss_normalization=step."
        )
    if args.label_smoothing_factor:
        raise ValueError("label_smoothing_factor would bypass the task weights. Leave it at 0.")
    if args.auto_find_batch_size:
        raise ValueError("auto_find_batch_size would change the batch in mid-run. Set per_device_train_batch_size.")
    if args.fsdp:
        raise ValueError("fsdp: transformers 4.31.0 cannot save its state with this torch. Use DeepSpeed (zero3.json).")
    if args.fp16 and args.optim == "adamw_torch_fused" and not args.deepspeed:
        raise ValueError(
            "optim adamw_torch_fused with fp16 skips overflowing steps where nothing can count them. "
            "Use optim adamw_torch, or bf16."
        )
    if args.torch_compile:
        check_compiler(args)
    if args.n_gpu > 1:
        raise ValueError(
            f"one process sees {args.n_gpu} GPUs, where transformers would use DataParallel. Start one process per "
            f"GPU: torchrun --nproc_per_node {args.n_gpu} ..., or deepspeed ..., or set CUDA_VISIBLE_DEVICES=0."
        )


def check_compiler(args: transformers.TrainingArguments) -> None:
    """Refuse a compilation that could only fail.

    Raises:
        ValueError: DeepSpeed, or no compiler for inductor.
    """
    if args.deepspeed:
        raise ValueError("torch_compile with DeepSpeed is not supported. Leave out one of them.")
    if args.torch_compile_backend != "inductor":
        return
    if not any(map(shutil.which, [os.environ.get("CXX", ""), *_COMPILERS])):
        raise ValueError("torch_compile needs a C++ compiler. Install g++, or leave torch_compile out.")
    if args.device.type == "cuda" and find_spec("triton") is None:
        raise ValueError("torch_compile needs triton on a GPU. Run pip install triton, or leave torch_compile out.")
