"""Reading a checkpoint's config.json: a Llama's or a LLaVA's, checked before a model is made of it."""

from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from llava.hub import companion
from llava.model.language_model.llava_llama import LlavaConfig
from visatb.errors import InputError
from visatb.files import read_json

CONFIG = "config.json"

# Larger values are mistakes, and would fill the memory before the weights are looked at.
_MOST = {
    "hidden_size": 2**17,
    "intermediate_size": 2**19,
    "num_hidden_layers": 2**10,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "vocab_size": 2**22,
    "max_position_embeddings": 2**18,
    "mm_hidden_size": 2**17,
}
# Settings of later Llamas that transformers 4.31.0 does not know: it would ignore them and compute something else.
_ONLY = {"rope_theta": 10000, "attention_bias": False, "mlp_bias": False}


def read_config(model_path: str | Path, model_name: str = "") -> LlamaConfig:
    """The configuration of a model folder or Hub name: a LlavaConfig if it takes images.

    Args:
        model_path: folder or Hub name.
        model_name: "llava" in it says that the model takes images, as in LLaVA.

    Raises:
        InputError: missing, damaged, of another architecture, or with settings that make no model.
    """
    content, file = _read(model_path)
    sees = content["model_type"] == "llava" or "llava" in model_name.lower()
    tower = content.get("mm_vision_tower")
    if sees and not (tower and isinstance(tower, str)):
        raise InputError(f"{model_path}: config.json has no mm_vision_tower. Use a LLaVA checkpoint.")
    return make_config(content, file, sees)


def read_base_config(model_path: str | Path, cache_dir: str | None = None) -> LlavaConfig:
    """The configuration of a Llama or LLaVA that is to be trained on images or text; raises as `read_config`."""
    return make_config(*_read(model_path, cache_dir), sees=True)


def _read(model_path: str | Path, cache_dir: str | None = None) -> tuple[dict[str, Any], Path]:
    file = companion(model_path, CONFIG, cache_dir)
    if file is None:
        raise InputError(f"{model_path}: holds no {CONFIG}, so it is no model. Give the folder of a checkpoint.")
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: must be a JSON object. Copy the checkpoint again.")
    kind = content.get("model_type")
    if kind not in ("llava", "llama"):
        raise InputError(f"{model_path}: model_type must be llava or llama, got {kind!r}. Use another checkpoint.")
    if "text_config" in content:
        raise InputError(
            f"{model_path}: is in Hugging Face's layout. Convert it: "
            "python -m scripts_visatb.checkpoints.convert_hf --from-hf"
        )
    return content, file


def make_config(content: dict[str, Any], source: str | Path, sees: bool) -> LlamaConfig:
    """A LlavaConfig (`sees`) or LlamaConfig of the content of a config.json.

    Raises:
        InputError: naming the setting that makes no model here.
    """
    for key, most in _MOST.items():
        value = content.get(key)
        if value is not None and (type(value) is not int or not 0 < value <= most):
            raise InputError(f"{source}: {key} must be a whole number from 1 to {most}, got {value!r}. Mend it.")
    for key, only in _ONLY.items():
        value = content.get(key)
        if value is not None and value != only:
            raise InputError(f"{source}: {key} must be {only}, got {value!r}. transformers 4.31.0 knows no other.")
    try:
        config = (LlavaConfig if sees else LlamaConfig).from_dict(
            content | {"model_type": "llava" if sees else "llama"}
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source}: cannot be used: {' '.join(str(error).split())} Mend it.") from None
    for divisor in (config.num_attention_heads, config.num_key_value_heads):
        whole = config.hidden_size if divisor == config.num_attention_heads else config.num_attention_heads
        if whole % divisor:
            raise InputError(f"{source}: {whole} cannot be split over {divisor} attention heads. Mend it.")
    width = config.hidden_size // config.num_attention_heads
    if getattr(config, "head_dim", None) not in (None, width):
        raise InputError(f"{source}: head_dim must be {width}, got {config.head_dim!r}. Use another checkpoint.")
    return config
