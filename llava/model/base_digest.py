"""A digest of an adapter's base model, stored beside the adapter and compared when both are loaded.

The digest covers name, shape and 4 slices of 256 numbers of every tensor of the language model, so that a 7b base takes
a megabyte of reading. Training changes all numbers of a trained tensor, so a finetuned copy differs. File format and
shards have no effect, nor do a projector or a vision tower, which no adapter changes. The numbers are digested as each
of three dtypes: a base saved in another dtype is the same base with rounded numbers.
"""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import torch

from llava.hub import companion
from llava.model.adapter import is_adapter
from llava.model.adapter_config import base_named
from visatb.errors import InputError
from visatb.files import read_json

BASE_FILE = "visatb_base.json"

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SLICES, _WIDTH = 4, 256
_NOT_DIGESTED = ("vision_tower.", "mm_projector.", "rotary_emb.inv_freq")


def base_digest(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The digest of a base model.

    Args:
        weights: of the whole model, memory-mapped or not.

    Returns:
        dtype, that of most numbers, and sha256, one for each dtype.
    """
    digests = {name: hashlib.sha256() for name in _DTYPES}
    sizes = dict.fromkeys(_DTYPES, 0)
    for name in sorted(weights):
        if any(part in name for part in _NOT_DIGESTED):
            continue
        tensor = weights[name]
        sample = _sample(tensor)
        for dtype, digest in digests.items():
            sizes[dtype] += tensor.numel() * (tensor.dtype == _DTYPES[dtype])
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            digest.update(sample.to(_DTYPES[dtype]).view(torch.uint8).numpy())
    return {
        "dtype": max(sizes, key=sizes.get),
        "sha256": {dtype: digest.hexdigest() for dtype, digest in digests.items()},
    }


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.detach().reshape(-1)
    if len(flat) <= _SLICES * _WIDTH:
        return flat
    starts = [n * (len(flat) - _WIDTH) // (_SLICES - 1) for n in range(_SLICES)]
    return torch.cat([flat[start : start + _WIDTH] for start in starts])


def check_base_of(adapter: str, base: str, weights: Mapping[str, torch.Tensor]) -> str | None:
    """Refuse a base that is not the one an adapter was trained on.

    Args:
        adapter: folder or Hub name.
        base: folder or Hub name that was given as its base, for messages.
        weights: of the base.

    Returns:
        A warning if the adapter has no digest, as LLaVA's own adapters, and names another base; otherwise None.

    Raises:
        InputError: the adapter's digest is another base's, or damaged.
    """
    file = companion(adapter, BASE_FILE)
    if file is None:
        named = base_named(adapter) or "a base that it does not name"
        if is_same_place(named, base):
            return None
        return f"{adapter} was trained on {named}, and is used with {base}. It has no {BASE_FILE} to compare them."
    stored = read_json(file)
    digests = stored.get("sha256") if isinstance(stored, dict) else None
    if not isinstance(digests, dict) or stored.get("dtype") not in list(_DTYPES):
        raise InputError(f"{file}: must contain the digest of a base model. Copy the adapter again.")
    found = base_digest(weights)
    dtypes = (stored["dtype"], found["dtype"])  # either may be the other, rounded
    if not any(digests.get(dtype) == found["sha256"][dtype] for dtype in dtypes):
        raise InputError(
            f"{base}: is not the model that {adapter} was trained on ({stored.get('base')}): their weights differ. "
            "Pass that model."
        )
    return None


def refuse_itself(model_path: str, model_base: str | None) -> None:
    """Refuse a model that is given as its own base."""
    if model_base is not None and is_same_place(model_path, model_base):
        named = base_named(model_path) if is_adapter(model_path, "") else None
        hint = f"the model it was trained on ({named})" if named else "the model it was trained on"
        raise InputError(f"{model_path}: is given as its own base. Pass {hint}, or no base for a full model.")


def is_same_place(one: str, other: str) -> bool:
    """Whether two names are the same folder, or the same name on the Hub."""
    return os.path.realpath(one) == os.path.realpath(other)
