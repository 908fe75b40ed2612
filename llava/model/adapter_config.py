"""Reads a LoRA folder's adapter_config.json, of any release of PEFT, restricted to plain LoRA.

PEFT's own reader accepts anything: a setting of a later release makes it fail, and `megatron_core` names a module to
import. Here only the settings of plain LoRA layers are passed on; any other setting that is enabled is refused.
"""

import dataclasses
from typing import Any

from llava.hub import companion
from llava.model.adapter import ADAPTER_CONFIG
from visatb.errors import InputError, shown
from visatb.files import read_json
from visatb.value_rules import FLAG, NULL, NUMBER, TEXT, Rule, check, list_of, object_of, whole

_RANK = whole(1, 2**14)
_LAYER = whole(0, 2**10)
_NAMES = Rule("names of layers", lambda value: bool(value) and (TEXT | list_of(TEXT)).holds(value))
_TAKEN = {
    "r": _RANK,
    "lora_alpha": NUMBER,
    "target_modules": _NAMES,
    "rank_pattern": object_of(_RANK) | NULL,
    "alpha_pattern": object_of(NUMBER) | NULL,
    "layers_to_transform": _LAYER | list_of(_LAYER) | NULL,
    "layers_pattern": TEXT | list_of(TEXT) | NULL,
    "use_rslora": FLAG,
    "use_dora": FLAG,
    "fan_in_fan_out": FLAG,
}
# Origin, training and other settings that do not affect the adapter's output.
_SAYS_NOTHING = {
    "alora_invocation_tokens",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
}
# Initialisation of the matrices; some methods change the base model as well.
_PLAIN_BEGINNINGS = (True, False, "gaussian")


def base_named(model_path: str) -> str | None:
    """The base model recorded in an adapter; None if there is none."""
    named = _content(model_path).get("base_model_name_or_path")
    return named if isinstance(named, str) and named else None


def read_adapter_config(model_path: str) -> Any:
    """The LoraConfig of an adapter folder or Hub name.

    Raises:
        InputError: missing, damaged, of another kind than LoRA, or with a setting that PEFT 0.13.2 does not have.
    """
    from peft import LoraConfig

    content = _content(model_path)
    where = f"{model_path}/{ADAPTER_CONFIG}"
    kind = content.get("peft_type")
    if kind != "LORA":
        raise InputError(f"{where}: peft_type must be LORA, got {shown(kind)}. Only LoRA adapters can be loaded.")
    beginning = content.get("init_lora_weights", True)
    if beginning not in _PLAIN_BEGINNINGS:
        raise InputError(
            f"{where}: init_lora_weights {shown(beginning)} changes the base model too. Convert the adapter with PEFT."
        )
    check(content, _TAKEN, where)
    for key in ("r", "target_modules"):
        if key not in content:
            raise InputError(f"{where}: {key} is missing. Copy the adapter again.")
    taken = {key: content[key] for key in _TAKEN if content.get(key) is not None}
    usual = {field.name: field.default for field in dataclasses.fields(LoraConfig)}
    for key in content.keys() - _TAKEN.keys() - _SAYS_NOTHING - {"init_lora_weights"}:
        if content[key] and content[key] != usual.get(key):
            raise InputError(
                f"{where}: {key} is {shown(content[key])}, which is not supported. Merge it with its own PEFT version."
            )
    return LoraConfig(task_type="CAUSAL_LM", **taken)


def _content(model_path: str) -> dict[str, Any]:
    file = companion(model_path, ADAPTER_CONFIG)
    if file is None:
        raise InputError(f"{model_path}: no {ADAPTER_CONFIG} found: not an adapter folder. Check the path.")
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: must be a JSON object. Copy the adapter again.")
    return content
