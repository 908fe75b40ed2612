"""LoRA folders: `adapter_config.json`, the adapter's tensors, and `non_lora_trainables.bin` with other trained weights.

The names are PEFT's and LLaVA's: `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` in the adapter,
`base_model.model.model.mm_projector.0.weight` beside it.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from llava.hub import companion
from llava.model.weights import read_tensors
from visatb.errors import InputError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
NON_LORA_FILE = "non_lora_trainables.bin"

LEFT_ALONE = ("vision_tower", "mm_projector", "lm_head")  # modules that LLaVA neither adapts nor quantises


def is_adapter(model_path: str, model_name: str) -> bool:
    """Whether a folder or Hub repository contains an adapter."""
    folder = Path(model_path)
    if folder.is_dir():
        return (folder / ADAPTER_CONFIG).is_file()
    return "lora" in model_name.lower()


def read_others(model_path: str) -> dict[str, torch.Tensor]:
    """Weights trained beside the adapter (projector, embeddings), by the model's names; {} if there are none."""
    file = companion(model_path, NON_LORA_FILE)
    return {} if file is None else {unwrapped(key): value for key, value in read_tensors(file).items()}


def fill_adapter(wrapped: Any, model_path: str) -> None:
    """Load the tensors of an adapter folder into a PeftModel created from its configuration.

    Args:
        wrapped: a PeftModel whose adapter is named "default".
        model_path: folder or Hub name.

    Raises:
        InputError: no tensors, or tensors that do not fit the model.
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
        raise InputError(f"{file}: has {len(deltas)} tensors, the model needs {expected}. Check --model-base.")


def unwrapped(key: str) -> str:
    """A parameter's name without what PEFT puts before it."""
    key = key.removeprefix("base_model.")
    return key.removeprefix("model.") if key.startswith(("model.model.", "model.lm_head.")) else key


def linear_names(model: torch.nn.Module) -> list[str]:
    """Last name parts of the modules that LLaVA adapts: every linear layer of the language model but lm_head."""
    linear = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return sorted({name.rpartition(".")[2] for name in linear if _takes_adapter(name)})


def wrap(model: torch.nn.Module, config: Any, **options: Any) -> Any:
    """A PeftModel around a model, its adapters in the language model alone.

    Target names such as `q_proj` would match the layers of a loaded vision tower as well.

    It is PEFT's base class: the one for causal language models consumes `task_ids`.

    Args:
        model: a LLaVA or Llama model.
        config: a LoraConfig.
        options: further arguments of PeftModel.
    """
    from peft import PeftModel

    wanted = config.target_modules
    placed = copy.copy(config)
    if not isinstance(wanted, str):
        placed.target_modules = {
            name
            for name, _ in model.named_modules()
            if _takes_adapter(name) and any(f".{name}".endswith(f".{target}") for target in wanted)
        }
    wrapped = PeftModel(model, placed, **options)
    placed.target_modules = wanted
    return wrapped


def save_adapter(
    wrapped: Any, state: Mapping[str, torch.Tensor], folder: str | Path, safe_serialization: bool = True
) -> None:
    """Write an adapter folder: the adapter, its configuration, and the rest of the state beside it.

    Args:
        wrapped: a PeftModel whose adapter is named "default".
        state: tensors by the PeftModel's own names.
        folder: exists.
        safe_serialization: adapter_model.safetensors, else .bin.
    """
    config = copy.copy(wrapped.peft_config["default"])
    config.inference_mode = True
    if not isinstance(config.target_modules, str):
        config.target_modules = sorted(config.target_modules)  # a set's order differs from process to process
    config.save_pretrained(str(folder))
    state = {stored_name(name): value.contiguous() for name, value in state.items()}
    adapter = {name: value for name, value in state.items() if "lora_" in name}
    safe, torch_file = ADAPTER_FILES
    if safe_serialization:
        save_file(adapter, Path(folder) / safe, metadata={"format": "pt"})
    else:
        torch.save(adapter, Path(folder) / torch_file)
    torch.save({name: value for name, value in state.items() if name not in adapter}, Path(folder) / NON_LORA_FILE)


def read_adapter(folder: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of an adapter folder by their stored names, those beside the adapter too."""
    files = [found for name in (*ADAPTER_FILES, NON_LORA_FILE) if (found := companion(folder, name))]
    return {name: value for file in files for name, value in read_tensors(file).items()}


def stored_name(name: str) -> str:
    """A PeftModel's parameter name as files have it: without the adapter's own name."""
    return name.replace(".default.", ".") if "lora_" in name else name


def _takes_adapter(name: str) -> bool:
    return not any(part in name for part in LEFT_ALONE)
