"""Reading a LoRA folder's adapter_config.json, of any release of PEFT, without what could reach beyond the adapter.

PEFT's own reader takes whatever the file says: a setting of a later release ends it, and `megatron_core` names a module
to import. Here only what shapes plain LoRA layers is handed on; anything else that is switched on is refused.
"""

import dataclasses
from typing import Any

from llava.hub import companion
from llava.model.adapter import ADAPTER_CONFIG
from visatb.errors import InputError
from visatb.files import read_json

_HIGHEST_RANK = 2**14
_TAKEN = {
    "r": int,
    "lora_alpha": int | float,
    "target_modules": list | str,
    "rank_pattern": dict | None,
    "alpha_pattern": dict | None,
    "layers_to_transform": list | int | None,
    "layers_pattern": list | str | None,
    "use_rslora": bool,
    "use_dora": bool,
    "fan_in_fan_out": bool,
}
# Where the adapter comes from, how it was trained, what else its file holds: nothing that changes what it computes.
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
# How the matrices began; some change the base model as well.
_PLAIN_BEGINNINGS = (True, False, "gaussian")


def base_named(model_path: str) -> str | None:
    """The model that an adapter says it was trained on; None if it does not say so."""
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
        raise InputError(f"{where}: peft_type must be LORA, got {kind!r}. Only LoRA adapters can be loaded.")
    beginning = content.get("init_lora_weights", True)
    if beginning not in _PLAIN_BEGINNINGS:
        raise InputError(
            f"{where}: init_lora_weights {beginning!r} changes the base model too. Convert the adapter with PEFT."
        )
    taken = {key: content[key] for key in _TAKEN if key in content}
    for key, value in taken.items():
        if not isinstance(value, _TAKEN[key]) or (key in ("r", "lora_alpha") and isinstance(value, bool)):
            raise InputError(f"{where}: {key} has a value of a wrong kind: {value!r}. Copy the adapter again.")
    _check_ranks([taken.get("r"), *(taken.get("rank_pattern") or {}).values()], where)
    if not taken.get("target_modules") or not all(isinstance(name, str) for name in taken["target_modules"]):
        raise InputError(f"{where}: target_modules must be names of layers. Copy the adapter again.")
    usual = {field.name: field.default for field in dataclasses.fields(LoraConfig)}
    for key in content.keys() - taken.keys() - _SAYS_NOTHING - {"init_lora_weights"}:
        if content[key] and content[key] != usual.get(key):
            raise InputError(
                f"{where}: {key} is {content[key]!r}, which is not known here. Merge it with its own PEFT."
            )
    return LoraConfig(task_type="CAUSAL_LM", **taken)


def _check_ranks(ranks: list[Any], where: str) -> None:
    for rank in ranks:
        if type(rank) is not int or not 0 < rank <= _HIGHEST_RANK:
            raise InputError(
                f"{where}: a rank must be a whole number from 1 to {_HIGHEST_RANK}, got {rank!r}. Mend it."
            )


def _content(model_path: str) -> dict[str, Any]:
    file = companion(model_path, ADAPTER_CONFIG)
    if file is None:
        raise InputError(f"{model_path}: holds no {ADAPTER_CONFIG}, so it is no adapter. Check the path.")
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: must be a JSON object. Copy the adapter again.")
    return content
