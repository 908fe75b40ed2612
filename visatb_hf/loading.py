"""Loads models and processors of transformers 5 for inference: complete and without remote code, else refused."""

import warnings
from pathlib import Path
from typing import Any

import torch

from visatb.cli import one_line
from visatb.errors import InputError
from visatb_hf.models import UNUSABLE, read_processor

_OF_A_PROCESSOR = ("processor_config.json", "tokenizer_config.json")


def load_model(path: str, device: str, dtype: torch.dtype) -> torch.nn.Module:
    """A vision-language model.

    Raises:
        InputError: a model that transformers does not know or cannot load, or whose files lack weights.
    """
    from transformers import AutoModelForImageTextToText

    try:
        model, loading = AutoModelForImageTextToText.from_pretrained(
            path,
            dtype=dtype,
            device_map={"": device},
            trust_remote_code=False,
            output_loading_info=True,
            local_files_only=Path(path).is_dir(),
        )
    except (*UNUSABLE, ImportError) as error:
        raise InputError(f"{path}: cannot be loaded: {one_line(error)[:300]}") from None
    missing = sorted(loading["missing_keys"])
    if missing:
        raise InputError(f"{path}: weights missing: {', '.join(missing[:5])}. Use a complete model.")
    return model


def with_adapter(model: torch.nn.Module, path: str) -> torch.nn.Module:
    """The model with a LoRA adapter merged into it. Raises InputError: an adapter of another model."""
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys")
            return PeftModel.from_pretrained(model, path).merge_and_unload()
    except (*UNUSABLE, UserWarning) as error:
        raise InputError(f"{path}: does not fit its base model: {one_line(error)[:300]}") from None


def load_processor(path: str, base: str | None = None) -> Any:
    """The processor of a model; for an adapter folder without one, that of its base model.

    Raises:
        InputError: it cannot be loaded (it may need a package), or has no image processor or chat template.
    """
    own = base is None or any((Path(path) / name).is_file() for name in _OF_A_PROCESSOR)
    place = path if own else base
    processor = read_processor(place)
    if not hasattr(processor, "image_processor"):
        raise InputError(f"{place}: has no image processor. Give a vision-language model.")
    if not processor.chat_template:
        raise InputError(f"{place}: has no chat template. Copy the model's chat_template.jinja into the folder.")
    return processor
