"""LoRA folders: `adapter_config.json`, the adapter's tensors, and `non_lora_trainables.bin` with what else was trained.

The names are PEFT's and LLaVA's: `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` in the adapter,
`base_model.model.model.mm_projector.0.weight` beside it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llava.model.weights import companion, read_tensors
from visatb.errors import InputError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
NON_LORA_FILE = "non_lora_trainables.bin"


def is_adapter(model_path: str, model_name: str) -> bool:
    """Whether a folder holds an adapter; of a Hub name, whether it says so."""
    folder = Path(model_path)
    if folder.is_dir():
        return (folder / ADAPTER_CONFIG).is_file()
    return "lora" in model_name.lower()


def read_others(model_path: str) -> dict[str, torch.Tensor]:
    """What was trained beside the adapter (projector, embeddings), by the model's own names; {} if nothing was."""
    file = companion(model_path, NON_LORA_FILE)
    return {} if file is None else {unwrapped(key): value for key, value in read_tensors(file).items()}


def fill_adapter(wrapped: Any, model_path: str) -> None:
    """Put the tensors of an adapter folder into a PeftModel made from its configuration.

    Args:
        wrapped: a PeftModel whose adapter is named "default".
        model_path: folder or Hub name.

    Raises:
        InputError: no tensors, or others than the model has places for.
    """
    from peft import set_peft_model_state_dict

    file = next((found for name in ADAPTER_FILES if (found := companion(model_path, name))), None)
    if file is None:
        raise InputError(f"{model_path}: has none of {', '.join(ADAPTER_FILES)}. Copy the adapter again.")
    deltas = read_tensors(file)
    try:
        unexpected = set_peft_model_state_dict(wrapped, deltas).unexpected_keys
    except RuntimeError as error:  # shapes
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file}: does not fit the model: {reason}. Check --model-base.") from None
    expected = sum("lora_" in name for name, _ in wrapped.named_parameters())
    if unexpected or expected != sum("lora_" in name for name in deltas):
        raise InputError(f"{file}: holds {len(deltas)} tensors, the model needs {expected}. Check --model-base.")


def unwrapped(key: str) -> str:
    """A parameter's name without what PEFT puts before it."""
    key = key.removeprefix("base_model.")
    return key.removeprefix("model.") if key.startswith(("model.model.", "model.lm_head.")) else key


def others_of(named: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.nn.Parameter]:
    """Of a PeftModel's named parameters those that are trained and are no part of the adapter."""
    return {name: value for name, value in named.items() if value.requires_grad and "lora_" not in name}
