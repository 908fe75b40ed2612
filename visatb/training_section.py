"""The `training` section of a benchmark file: script, place, and the variables of the script (`environment`).

The variables of the shipped scripts are known by name and kind, so that mistakes are refused when the file is read and
not by the first training. Custom scripts may read any variable.
"""

import re
from pathlib import PurePath
from typing import Any

from visatb.errors import shown
from visatb.flag_section import broken_rule, check_flags, check_word, flags
from visatb.schema import BrokenError, cut, number_of

_KEYS = {"script": "text", "environment": "any", "gpus": "place", "threads": "place", "keep_models": "any"}

# Set by the run graph for every training.
OWN_VARIABLES = (
    "DATA_PATH",
    "IMAGE_FOLDER",
    "OUTPUT_DIR",
    "BENCHMARK",
    "SEED",
    "WEIGHT_METHOD",
    "VISATB_WEIGHTS",
)
# Also set by the graph: how its steps find their interpreter, the checkout and each other.
_RESERVED = frozenset((*OWN_VARIABLES, "PYTHON", "PYTHONPATH", "PATH", "VISATB_STEP"))

# What a training starts from: the graph reads these too, for any script.
BASE_VARIABLES = ("BASE_MODEL_PATH", "VISION_TOWER", "PRETRAIN_MM_MLP_ADAPTER", "LORA_WEIGHT_PATH")

# Variable of the shipped scripts -> kind (flag_section.broken_rule).
_KINDS = {
    "BASE_MODEL_PATH": "text",
    "VISION_TOWER": "text",
    "PRETRAIN_MM_MLP_ADAPTER": "text",
    "MM_PROJECTOR_TYPE": "text",
    "MM_VISION_SELECT_LAYER": "integer",
    "IMAGE_ASPECT_RATIO": "text",
    "PROMPT_VERSION": "text",
    "PER_DEVICE_TRAIN_BATCH_SIZE": "count",
    "GRADIENT_ACCUMULATION_STEPS": "count",
    "NUM_TRAIN_EPOCHS": "number",
    "LEARNING_RATE": "number",
    "WEIGHT_DECAY": "number",
    "WARMUP_RATIO": "number",
    "LR_SCHEDULER_TYPE": "text",
    "MODEL_MAX_LENGTH": "count",
    "LOSS_NORMALIZATION": "text",
    "TASK_SAMPLING": "text",
    "MM_PROJECTOR_LR": "number",
    "GRADIENT_CHECKPOINTING": "truth",
    "SAVE_STRATEGY": "text",
    "SAVE_STEPS": "number",
    "SAVE_TOTAL_LIMIT": "count",
    "LOGGING_STEPS": "number",
    "REPORT_TO": "text",
    "DATALOADER_NUM_WORKERS": "whole",
}
_LORA_KINDS = {"LORA_R": "count", "LORA_ALPHA": "number", "LORA_DROPOUT": "number", "LORA_WEIGHT_PATH": "text"}
_QLORA_KINDS = {"BITS": "count"}
# Of finetune_hf.sh, beside those above.
_HF_KINDS = {
    "CHAT_TEMPLATE": "text",
    "MIN_PIXELS": "count",
    "MAX_PIXELS": "count",
    "FREEZE_VISION_TOWER": "truth",
    "FREEZE_PROJECTOR": "truth",
    "LORA_ENABLE": "truth",
    "PYTHON_HF": "text",
}

# What finetune_hf.sh does not read of the other scripts' variables.
_OF_LLAVA_ALONE = frozenset(
    ("VISION_TOWER", "PRETRAIN_MM_MLP_ADAPTER", "MM_PROJECTOR_TYPE", "MM_VISION_SELECT_LAYER", "IMAGE_ASPECT_RATIO")
    + ("PROMPT_VERSION", "LOSS_NORMALIZATION", "TASK_SAMPLING", "MM_PROJECTOR_LR", "LORA_WEIGHT_PATH")
)

# Taken only from the benchmark file, regardless of the caller's environment.
RECIPE_VARIABLES = frozenset(_KINDS | _LORA_KINDS | _QLORA_KINDS | _HF_KINDS) - {"PYTHON_HF"}

# Of scripts_visatb/launch.sh: where a training runs.
LAUNCH_KINDS = {
    "NUM_GPUS": "whole",
    "NUM_PROCESSES": "count",
    "LAUNCHER": "text",
    "HOSTFILE": "text",
    "NNODES": "count",
    "NODE_RANK": "whole",
    "MASTER_ADDR": "text",
    "MASTER_PORT": "count",
    "TF32": "truth",
    "DEEPSPEED_CONFIG": "text",
}
# Logging, saving, reading and placement of a training: another value does not change the model.
PLACEMENT_VARIABLES = frozenset(
    ("LOGGING_STEPS", "SAVE_STEPS", "SAVE_STRATEGY", "SAVE_TOTAL_LIMIT", "REPORT_TO", "DATALOADER_NUM_WORKERS")
    + ("LAUNCHER", "HOSTFILE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "PYTHON_HF")
)
# The libraries below read variables of their own.
_LIBRARY_VARIABLE = re.compile(
    r"(?:CUDA|NVIDIA|NCCL|GLOO|UCX|TORCH|PYTORCH|TORCHINDUCTOR|TRITON|HF|HUGGINGFACE|TRANSFORMERS|TOKENIZERS|ACCELERATE|"
    r"DEEPSPEED|DS|OMP|MKL|KMP|OPENBLAS|WANDB|TENSORBOARD|LD|XDG|HTTPS?|NO|SLURM)_\w+|TMPDIR|HOME|https?_proxy|no_proxy"
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHIPPED = re.compile(r"(?:.*/)?scripts_visatb/(finetune\w*\.sh)")


def check_training(training: dict[str, Any]) -> None:
    """Refuse an invalid section by BrokenError."""
    environment = training.get("environment")
    check_flags({key: value for key, value in training.items() if key != "environment"}, _KEYS)
    if not isinstance(training.get("keep_models", True), bool):
        raise BrokenError(f" must be true or false, got {shown(training['keep_models'])}. Correct it.", "keep_models")
    if environment is not None and not isinstance(environment, dict):
        raise BrokenError(f" must be a mapping, got {shown(environment)}. Correct it.", "environment")
    kinds = variables_of(training.get("script"))
    for name, value in (environment or {}).items():
        _check_variable(name, value, kinds, training.get("script"))


def variables_of(script: str | None) -> dict[str, str] | None:
    """The variables that a shipped script reads, with their kinds; None for a custom script."""
    found = _SHIPPED.fullmatch(PurePath(script).as_posix()) if script else None
    if found is None:
        return None
    if found[1] == "finetune_hf.sh":
        kinds = _KINDS | LAUNCH_KINDS | _LORA_KINDS | _QLORA_KINDS | _HF_KINDS
        return {name: kind for name, kind in kinds.items() if name not in _OF_LLAVA_ALONE}
    lora = _LORA_KINDS if "lora" in found[1] else {}
    return _KINDS | LAUNCH_KINDS | lora | (_QLORA_KINDS if "qlora" in found[1] else {})


def plain_value(name: str, value: Any) -> float | str:
    """A variable's value in canonical form for comparison: 8, 8.0 and "8" are one batch size."""
    kind = (_KINDS | LAUNCH_KINDS | _LORA_KINDS | _QLORA_KINDS | _HF_KINDS).get(name)
    number = None if kind in (None, "text", "truth") else number_of(value)
    return as_text(value) if number is None else float(number)


def as_text(value: Any) -> str:
    """A variable's value as the script gets it."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _check_variable(name: Any, value: Any, kinds: dict[str, str] | None, script: str | None) -> None:
    key = f"environment.{cut(name)}"
    if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
        raise BrokenError(" must be the name of a variable: letters, digits, '_'. Rename it.", key)
    if name in _RESERVED:
        raise BrokenError(" is set by the run graph. Remove it.", key)
    if value is None or isinstance(value, list) and None in value:
        raise BrokenError(" has no value. Give it one, or remove it for the script's default.", key)
    if name in BASE_VARIABLES and not isinstance(value, str):
        raise BrokenError(f" must be text, got {shown(value)}. Put it in quotes.", key)
    check_word(value, key)
    if kinds is None:
        return
    if isinstance(value, list):
        raise BrokenError(f" must be one value, got {shown(value)}. Correct it.", key)
    if name not in kinds and not _LIBRARY_VARIABLE.fullmatch(name):
        raise BrokenError(f" is not a variable that {script} reads. Correct the name (docs/training.md).", key)
    rule = broken_rule(value, kinds.get(name, "any"))
    if rule:
        raise BrokenError(f" must be {rule}, got {shown(value)}. Correct it.", key)


TRAINING = flags(_KEYS, check_training)
