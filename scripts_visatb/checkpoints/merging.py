"""A LoRA or projector-only folder and its base model become one whole model."""

from pathlib import Path

import torch
from transformers import LlamaConfig

from llava.mm_utils import get_model_name_from_path
from llava.model.builder import EMBEDDINGS, load_pretrained_model
from llava.model.config_file import read_config
from llava.model.weights import read_state_dict
from scripts_visatb.checkpoints.folders import check_written, new_folder, refuse_taken, size_in_bytes
from visatb.errors import InputError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def merge(model_path: str, model_base: str, target: Path, dtype: str = "auto", max_shard_size: str = "5GB") -> None:
    """Write the merged model into a new folder.

    Args:
        model_path: a LoRA folder or a projector-only folder, or its Hub name.
        model_base: the model it was trained on.
        target: must not exist, or be an empty folder.
        dtype: a key of DTYPES, or "auto": that of the training (config.json).
        max_shard_size: of each weight file, such as "5GB".

    Raises:
        InputError: a target that exists; otherwise as `load_pretrained_model`.
    """
    size_in_bytes(max_shard_size)
    refuse_taken(target)
    name = get_model_name_from_path(model_path)
    config = read_config(model_path)
    stored = DTYPES[dtype] if dtype != "auto" else _dtype_of_training(config, model_base)
    tokenizer, model, _, _ = load_pretrained_model(
        model_path, model_base, name, device_map=None, device="cpu", torch_dtype=stored
    )
    model.config.torch_dtype = stored
    model.config.architectures = [type(model).__name__]
    with new_folder(target) as folder:
        model.save_pretrained(folder, safe_serialization=True, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(folder)
        check_written(model.state_dict(), folder)


def _dtype_of_training(config: LlamaConfig, model_base: str) -> torch.dtype:
    """The dtype that the folder's config.json names, else the one in which the base is stored."""
    if config.torch_dtype in DTYPES.values():
        return config.torch_dtype
    for tensor in read_state_dict(model_base, lambda name: name == EMBEDDINGS).values():
        if tensor.dtype in DTYPES.values():
            return tensor.dtype
    raise InputError(f"{model_base}: no {EMBEDDINGS} of float32, bfloat16 or float16. Set --dtype.")
