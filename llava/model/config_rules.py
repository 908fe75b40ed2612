"""Valid values of config.json and generation_config.json, here and in transformers 4.31.0.

Keys in a table have their own rule; every other key of transformers must have the type of its default.
"""

import re
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, LlamaConfig
from transformers.activations import ACT2FN

from llava.conversation import CONVERSATION_VERSION, conv_templates
from llava.model.multimodal_encoder.clip_encoder import SELECT_FEATURES, SETTABLE
from llava.model.multimodal_projector.builder import KINDS, KINDS_IN_WORDS
from visatb.errors import InputError, shown
from visatb.value_rules import (
    FLAG,
    NULL,
    NUMBER,
    OBJECT,
    TEXT,
    Rule,
    check,
    like_defaults,
    list_of,
    number,
    one_of,
    refuse_attributes,
    whole,
)

_TOKENS = whole(-1, 2**22)  # the first Llamas on the Hub have -1 for no token
_TOKEN = _TOKENS | NULL
_END = _TOKENS | list_of(_TOKENS) | NULL
_COUNT = whole(0, 2**31)
_MOST_LAYERS = 2**10
# Larger values are mistakes, and would exhaust the memory before the weights are read.
_LLAMA = {
    "hidden_size": whole(1, 2**17),
    "intermediate_size": whole(1, 2**19),
    "num_hidden_layers": whole(1, _MOST_LAYERS),
    "num_attention_heads": whole(1, 2**12),
    "num_key_value_heads": whole(1, 2**12) | NULL,
    "head_dim": whole(1, 2**17) | NULL,
    "vocab_size": whole(1, 2**22),
    "max_position_embeddings": whole(1, 2**18),
    "pretraining_tp": whole(1, 2**12),
    "hidden_act": Rule(
        "an activation that transformers knows", lambda value: isinstance(value, str) and value in ACT2FN
    ),
    "rms_norm_eps": number(0, 1),
    "initializer_range": number(0, 100),
    "tie_word_embeddings": FLAG,
    "use_cache": FLAG,
    "rope_scaling": OBJECT | NULL,
    "torch_dtype": one_of("float16", "bfloat16", "float32", "float64") | NULL,
    "is_encoder_decoder": one_of(False) | NULL,
    "add_cross_attention": one_of(False) | NULL,
    "cross_attention_hidden_size": NULL,
    "pruned_heads": one_of({}),
    "architectures": list_of(TEXT) | NULL,
    "problem_type": one_of("regression", "single_label_classification", "multi_label_classification") | NULL,
    "id2label": Rule(
        "an object whose keys are numbers",
        lambda value: value is None or isinstance(value, dict) and all(map(str.isdecimal, value)),
    ),
    "label2id": OBJECT | NULL,
    "num_labels": whole(0, 2**20) | NULL,
    "quantization_config": OBJECT,
    "max_sequence_length": whole(1, 2**31),
    # Settings of later Llamas that transformers 4.31.0 does not support: it would ignore them and compute something
    # else.
    "rope_theta": Rule("10000 (transformers 4.31.0 knows no other)", lambda value: value in (None, 10000)),
    "attention_bias": Rule("false (transformers 4.31.0 knows no other)", lambda value: value in (None, False)),
    "mlp_bias": Rule("false (transformers 4.31.0 knows no other)", lambda value: value in (None, False)),
}
_LLAVA = {
    "mm_vision_tower": TEXT | NULL,
    "mm_projector_type": Rule(
        KINDS_IN_WORDS, lambda value: isinstance(value, str) and bool(re.fullmatch(KINDS, value))
    ),
    "mm_hidden_size": whole(1, 2**17),
    "mm_vision_select_layer": whole(-_MOST_LAYERS, _MOST_LAYERS) | NULL,
    "mm_vision_select_feature": one_of(*SELECT_FEATURES) | NULL,
    "mm_use_im_start_end": FLAG | NULL,
    "mm_use_im_patch_token": FLAG | NULL,
    "use_mm_proj": FLAG | NULL,
    "tune_mm_mlp_adapter": FLAG | NULL,
    "freeze_mm_mlp_adapter": FLAG | NULL,
    "mm_projector_lr": NUMBER | NULL,
    "image_aspect_ratio": TEXT | NULL,
    "tokenizer_padding_side": one_of("right", "left") | NULL,
    "tokenizer_model_max_length": Rule(
        "a whole number above 0", lambda value: value is None or type(value) is int and value > 0
    ),
    CONVERSATION_VERSION: one_of(*conv_templates) | NULL,
}
_GENERATION = {
    "bos_token_id": _TOKEN,
    "pad_token_id": _TOKEN,
    "eos_token_id": _END,
    "sep_token_id": _TOKEN,
    "decoder_start_token_id": _TOKEN,
    "forced_bos_token_id": _TOKEN,
    "forced_eos_token_id": _END,
    "max_length": _COUNT | NULL,
    "min_length": _COUNT | NULL,
    "max_new_tokens": _COUNT | NULL,
    "min_new_tokens": _COUNT | NULL,
    "max_time": NUMBER | NULL,
    "num_beams": whole(1, 2**16) | NULL,
    "num_beam_groups": whole(1, 2**16) | NULL,
    "num_return_sequences": whole(1, 2**16) | NULL,
    "early_stopping": FLAG | one_of("never") | NULL,
    "penalty_alpha": NUMBER | NULL,
    "guidance_scale": NUMBER | NULL,
    "suppress_tokens": list_of(_TOKENS) | NULL,
    "begin_suppress_tokens": list_of(_TOKENS) | NULL,
    "bad_words_ids": list_of(list_of(_TOKENS)) | NULL,
    "generation_kwargs": OBJECT,
}
_TOKEN_KEY = re.compile(r".*_token_id")
# Settings of LLaVA-1.6 and related models for tiling images, or for modules between tower and language model.
_OTHER_LLAVAS = {
    "image_aspect_ratio": lambda value: isinstance(value, str) and ("anyres" in value or "highres" in value),
    "mm_patch_merge_type": lambda value: value not in (None, "", "flat"),
    "image_grid_pinpoints": bool,
    "mm_resampler_type": bool,
    "s2": bool,
}


def check_config(content: Mapping[str, Any], source: Any) -> None:
    """Refuse a config.json of a Llama or LLaVA with an invalid or unsupported value.

    Raises:
        InputError: naming file, key and rule; for another kind of LLaVA, its kind.
    """
    for key, is_other in _OTHER_LLAVAS.items():
        if is_other(content.get(key)):
            raise InputError(
                f"{source}: {key} is {shown(content[key])}: a LLaVA-1.6 (several tiles of an image, or other modules "
                "than LLaVA-1.5 has). Only LLaVA-1.5 is supported; use a LLaVA-1.5 checkpoint."
            )
    refuse_attributes(content, LlamaConfig, source, SETTABLE)
    usual = like_defaults(LlamaConfig().to_dict())
    check(content, usual | _nullable(_GENERATION) | _LLAMA | _LLAVA, source)


def check_generation_config(content: Any, source: Any) -> None:
    """Refuse a generation_config.json with a value that transformers cannot use. Raises as `check_config`."""
    if not isinstance(content, dict):
        raise InputError(f"{source}: must be a JSON object. Copy it again, or delete it.")
    refuse_attributes(content, GenerationConfig, source)
    check(content, _nullable(like_defaults(vars(GenerationConfig()))) | _GENERATION, source)


def check_token_ids(content: Mapping[str, Any], vocabulary: int, source: Any) -> None:
    """Refuse ids of tokens that a model cannot have: an end token that is never generated ends nothing.

    Args:
        content: of a config.json or generation_config.json whose values are checked.
        vocabulary: size of the model's vocabulary.
        source: the file, for messages.

    Raises:
        InputError: naming file and key.
    """
    for key in (*filter(_TOKEN_KEY.fullmatch, _GENERATION), "suppress_tokens", "begin_suppress_tokens"):
        value = content.get(key)
        for token in value if isinstance(value, list) else [-1 if value is None else value]:
            if token >= vocabulary:
                raise InputError(
                    f"{source}: {key} must be below {vocabulary}, the size of the vocabulary, got {token}. Correct it, "
                    "or copy the file again."
                )


def _nullable(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    return {key: rule | NULL for key, rule in rules.items()}
