"""Merges a LoRA or projector-only folder with its base model into a full model folder.

The result loads without the base, here and in LLaVA, and generates the same answers as base and adapter loaded together
in the same dtype, because the adapter is merged in that dtype. The vision tower's weights are included.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaConfig

from llava.mm_utils import get_model_name_from_path
from llava.model.builder import EMBEDDINGS, load_pretrained_model
from llava.model.config_file import read_config
from llava.model.weights import read_state_dict
from scripts_visatb.checkpoints.folders import check_written, new_folder, refuse_taken, size_in_bytes
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

_EXAMPLE = """example:
  python -m scripts_visatb.checkpoints.merge_lora_weights --model-path checkpoints/llava-v1.5-7b-visatb-lora \\
      --model-base lmsys/vicuna-7b-v1.5 --save-model-path checkpoints/llava-v1.5-7b-visatb
"""


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


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("--model-path", required=True, help="LoRA or projector-only folder, or its name on the hub")
    parser.add_argument("--model-base", required=True, help="folder or hub name of the model it was trained on")
    parser.add_argument("--save-model-path", required=True, type=Path, help="folder for the full model; must not exist")
    parser.add_argument(
        "--dtype", choices=["auto", *DTYPES], default="auto", help="of the weights; auto: that of the training"
    )
    parser.add_argument("--max-shard-size", default="5GB", help="of each weight file")
    args = parser.parse_args(argv)
    merge(args.model_path, args.model_base, args.save_model_path, args.dtype, args.max_shard_size)
    print(f"{args.save_model_path}: merged")


if __name__ == "__main__":
    run(main)
