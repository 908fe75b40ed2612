"""config.json in LLaVA's form and in that of Hugging Face's `LlavaForConditionalGeneration`."""

from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig

from llava.conversation import CONVERSATION_VERSION
from llava.model.config_file import make_config
from scripts_visatb.checkpoints.hf_tokens import Tokens
from visatb.errors import InputError

PROJECTOR = "mlp2x_gelu"

_STRATEGIES = {"patch": "default", "cls_patch": "full"}  # LLaVA's, Hugging Face's
_TEXT_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
)
_VISION_KEYS = (
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
    "initializer_range",
    "initializer_factor",
)
# Settings that affect a tower's output; the others concern its training.
_VISION_SHAPE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
)


def check_ours(config: LlamaConfig, source: str) -> None:
    """Refuse what has no counterpart in Hugging Face's layout. Raises InputError naming the setting."""
    if config.model_type != "llava":
        raise InputError(f"{source}: is a Llama without vision. Give a LLaVA model.")
    kind = getattr(config, "mm_projector_type", "linear")
    if kind != PROJECTOR:
        raise InputError(
            f"{source}: mm_projector_type must be {PROJECTOR}, got {kind!r}. Hugging Face's layout supports no other."
        )


def to_hf(config: Any, tower: CLIPVisionConfig, tokens: Tokens, patches: int) -> dict[str, Any]:
    """Hugging Face's configuration of a LLaVA model.

    Args:
        config: LlavaConfig.
        tower: the vision tower's.
        tokens: the extended vocabulary.
        patches: positions an image takes.
    """
    dtype = str(config.torch_dtype).removeprefix("torch.") if config.torch_dtype else "float16"
    text = {key: getattr(config, key) for key in _TEXT_KEYS} | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": tokens.rows,
        "pad_token_id": tokens.pad,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "torch_dtype": dtype,
    }
    if config.rope_scaling:
        text["rope_scaling"] = config.rope_scaling | {"rope_type": config.rope_scaling["type"]}
    vision = {key: getattr(tower, key) for key in _VISION_KEYS} | {"model_type": "clip_vision_model"}
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "ignore_index": -100,
        "image_seq_length": patches,
        "image_token_index": tokens.image,
        "multimodal_projector_bias": True,
        "pad_token_id": tokens.pad,
        "projector_hidden_act": "gelu",
        "text_config": text,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": dtype,
        "vision_config": vision,
        "vision_feature_layer": config.mm_vision_select_layer,
        "vision_feature_select_strategy": _STRATEGIES[getattr(config, "mm_vision_select_feature", None) or "patch"],
    } | _recorded(vars(config))


def check_kind(hf: Any, source: str) -> None:
    """Refuse models other than LLaVA-1.5 in Hugging Face's layout. Raises InputError naming the setting."""
    parts = ("text_config", "vision_config") if isinstance(hf, dict) else ()
    if not parts or hf.get("model_type") != "llava" or not all(isinstance(hf.get(part), dict) for part in parts):
        raise InputError(
            f"{source}: not a LlavaForConditionalGeneration in Hugging Face's layout. Use --to-hf for LLaVA's."
        )
    text, vision = hf["text_config"], hf["vision_config"]
    found = {
        "text_config.model_type": (text.get("model_type", "llama"), "llama"),
        "vision_config.model_type": (vision.get("model_type", "clip_vision_model"), "clip_vision_model"),
        "projector_hidden_act": (hf.get("projector_hidden_act", "gelu"), "gelu"),
        "multimodal_projector_bias": (hf.get("multimodal_projector_bias", True), True),
        "quantization_config": (hf.get("quantization_config"), None),
    }
    for key, (value, only) in found.items():
        if value != only:
            raise InputError(f"{source}: {key} must be {only}, got {value!r}. LLaVA-1.5 supports no other.")
    layer, strategy = hf.get("vision_feature_layer", -2), hf.get("vision_feature_select_strategy", "default")
    if type(layer) is not int or strategy not in _STRATEGIES.values():
        raise InputError(f"{source}: vision_feature_layer {layer!r}, strategy {strategy!r} not in LLaVA-1.5.")


def from_hf(hf: dict[str, Any], vision_tower: str, vocabulary: int, source: str) -> dict[str, Any]:
    """LLaVA's config.json of a checkpoint that was not written by `to_hf`; missing settings are those of LLaVA-1.5.

    Args:
        hf: their config.json, checked by `check_kind`.
        vision_tower: folder or Hub name, for mm_vision_tower.
        vocabulary: tokens without those that Hugging Face's layout adds.
        source: for messages.
    """
    text = _with_4_31_rope(hf["text_config"])
    llama = make_config(text | {"model_type": "llama", "vocab_size": vocabulary, "pad_token_id": 0}, source, sees=False)
    dtype = hf.get("torch_dtype") or hf.get("dtype") or text.get("torch_dtype") or text.get("dtype") or "float16"
    strategies = {theirs: ours for ours, theirs in _STRATEGIES.items()}
    return (
        {key: getattr(llama, key) for key in _TEXT_KEYS}
        | {
            "architectures": ["LlavaLlamaForCausalLM"],
            "model_type": "llava",
            "vocab_size": vocabulary,
            "pad_token_id": 0,
            "pretraining_tp": 1,
            "rope_scaling": llama.rope_scaling,
            "torch_dtype": dtype if isinstance(getattr(torch, str(dtype), None), torch.dtype) else "float16",
            "transformers_version": "4.31.0",
            "use_cache": True,
            "freeze_mm_mlp_adapter": False,
            "image_aspect_ratio": "pad",
            "mm_hidden_size": tower_config(hf).hidden_size,
            "mm_projector_lr": None,
            "mm_projector_type": PROJECTOR,
            "mm_use_im_patch_token": False,
            "mm_use_im_start_end": False,
            "mm_vision_select_feature": strategies[hf.get("vision_feature_select_strategy", "default")],
            "mm_vision_select_layer": hf.get("vision_feature_layer", -2),
            "mm_vision_tower": vision_tower,
            "tokenizer_model_max_length": llama.max_position_embeddings,
            "tokenizer_padding_side": "right",
            "tune_mm_mlp_adapter": False,
            "use_mm_proj": True,
        }
        | _recorded(hf)
    )


def _recorded(content: dict[str, Any]) -> dict[str, Any]:
    """The template that the model was trained with, where it is recorded; Hugging Face's classes keep the key."""
    version = content.get(CONVERSATION_VERSION)
    return {} if version is None else {CONVERSATION_VERSION: version}


def _with_4_31_rope(text: dict[str, Any]) -> dict[str, Any]:
    """Llama's settings with the rotary ones as 4.31.0 has them; later releases keep them together under one key."""
    rope = {key: value for name in ("rope_scaling", "rope_parameters") for key, value in (text.get(name) or {}).items()}
    kind = rope.get("rope_type", rope.get("type", "default"))
    known = {key: value for key, value in text.items() if key not in ("rope_scaling", "rope_parameters")}
    if "rope_theta" in rope:
        known["rope_theta"] = rope["rope_theta"]
    return known if kind == "default" else known | {"rope_scaling": {"type": kind, "factor": rope.get("factor")}}


def tower_config(hf: dict[str, Any]) -> CLIPVisionConfig:
    """The vision tower's configuration from Hugging Face's; missing settings are those of ViT-L/14 at 336 pixels."""
    usual = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    }
    said = hf["vision_config"]
    return CLIPVisionConfig(**usual | {key: said[key] for key in _VISION_KEYS if key in said})


def check_tower(theirs: CLIPVisionConfig, ours: CLIPVisionConfig, source: str, vision_tower: str | Path) -> None:
    """Refuse a vision tower with other outputs than the checkpoint's own."""
    for key in _VISION_SHAPE:
        if getattr(theirs, key) != getattr(ours, key):
            raise InputError(
                f"{source}: its vision tower has {key} {getattr(theirs, key)!r}, {vision_tower} has "
                f"{getattr(ours, key)!r}. Pass the tower it was trained with: --vision-tower."
            )
