"""Reads and checks a checkpoint's config.json, a Llama's or a LLaVA's, before a model is created."""

from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from llava.hub import companion
from llava.model.config_rules import check_config, check_token_ids
from llava.model.language_model.llava_llama import MODEL_TYPE, MODEL_TYPES, LlavaConfig
from visatb.cli import one_line
from visatb.errors import InputError, shown
from visatb.files import read_json

CONFIG = "config.json"


def read_config(model_path: str | Path) -> LlamaConfig:
    """The configuration of a model folder or Hub name: a LlavaConfig if it says that the model takes images.

    Raises:
        InputError: missing, damaged, of another architecture, or with invalid settings.
    """
    content, file = _read(model_path)
    tower = content.get("mm_vision_tower")
    sees = content["model_type"] in MODEL_TYPES or tower is not None
    if sees and not (tower and isinstance(tower, str)):
        raise InputError(f"{model_path}: config.json has no mm_vision_tower. Use a LLaVA checkpoint.")
    return make_config(content, file, sees)


def read_base_config(model_path: str | Path, cache_dir: str | None = None) -> LlavaConfig:
    """The configuration of a Llama or LLaVA that is to be trained on images or text; raises as `read_config`."""
    return make_config(*_read(model_path, cache_dir), sees=True)


def _read(model_path: str | Path, cache_dir: str | None = None) -> tuple[dict[str, Any], Path]:
    file = companion(model_path, CONFIG, cache_dir)
    if file is None:
        raise InputError(f"{model_path}: no {CONFIG} found: not a model folder. Give a checkpoint folder.")
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: must be a JSON object. Copy the checkpoint again.")
    kind = content.get("model_type")
    known = (*MODEL_TYPES, "llama")
    if kind not in known:
        raise InputError(f"{file}: model_type must be one of {', '.join(known)}, got {shown(kind)}. Use another model.")
    if "text_config" in content:
        raise InputError(
            f"{model_path}: is in Hugging Face's layout. Convert it: "
            "python -m scripts_visatb.checkpoints.convert_hf --from-hf"
        )
    return content, file


def make_config(content: dict[str, Any], source: str | Path, sees: bool) -> LlamaConfig:
    """A LlavaConfig (`sees`) or LlamaConfig of the content of a config.json.

    Raises:
        InputError: naming the invalid setting.
    """
    check_config(content, source)
    try:
        config = (LlavaConfig if sees else LlamaConfig).from_dict(
            content | {"model_type": MODEL_TYPE if sees else "llama"}
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source}: cannot be used: {one_line(error)[:200]} Copy the checkpoint again.") from None
    _check_together(config, source)
    return config


def _check_together(config: LlamaConfig, source: str | Path) -> None:
    """Refuse values that are valid individually but not in combination."""
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    for whole, parts in ((config.hidden_size, heads), (heads, key_heads)):
        if whole % parts:
            raise InputError(
                f"{source}: {whole} cannot be split over {parts} attention heads. Copy the checkpoint again."
            )
    width = config.hidden_size // heads
    if width % 2:
        raise InputError(
            f"{source}: hidden_size / num_attention_heads must be even, got {width}. Use another checkpoint."
        )
    if getattr(config, "head_dim", None) not in (None, width):
        raise InputError(f"{source}: head_dim must be {width}, got {config.head_dim!r}. Use another checkpoint.")
    for key in ("hidden_size", "intermediate_size", "vocab_size"):
        if getattr(config, key) % config.pretraining_tp or key_heads * width % config.pretraining_tp:
            raise InputError(f"{source}: pretraining_tp must divide {key}, got {config.pretraining_tp}. Set it to 1.")
    check_token_ids(vars(config), config.vocab_size, source)
