"""The projector: image features to the language model's embeddings.

Shapes: N images, P patches, V width of the vision tower, D hidden size of the language model.
"""

import re
from typing import Any

import torch
from torch import nn

from visatb.errors import InputError

# More than 99 layers are a mistake, and would exhaust the memory.
KINDS = r"linear|identity|mlp([1-9]\d?)x_gelu"
KINDS_IN_WORDS = "linear, mlpNx_gelu or identity"


class IdentityMap(nn.Module):
    """Identity projector, for a tower with the language model's hidden size."""

    @property
    def config(self) -> dict[str, str]:
        """The projector's entry in config.json."""
        return {"mm_projector_type": "identity"}

    def forward(self, feature_NPV: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """feature_NPV itself."""
        return feature_NPV


def build_vision_projector(config: Any, delay_load: bool = False, **kwargs: Any) -> nn.Module:
    """The projector that config.mm_projector_type names: `linear`, `mlpNx_gelu` (N layers) or `identity`.

    Args:
        config: has mm_hidden_size (V) and hidden_size (D).
        delay_load: accepted for LLaVA's signature; without effect.

    Raises:
        InputError: unknown type.
    """
    kind = getattr(config, "mm_projector_type", "linear")
    found = re.fullmatch(KINDS, str(kind))
    if found is None:
        raise InputError(f"mm_projector_type must be {KINDS_IN_WORDS}, got {kind!r}. Use one of these.")
    if kind == "identity":
        return IdentityMap()
    if getattr(config, "mm_hidden_size", None) is None:
        raise InputError("config.json has mm_vision_tower and no mm_hidden_size. Copy the checkpoint again.")
    if kind == "linear":
        return nn.Linear(config.mm_hidden_size, config.hidden_size)
    layers: list[nn.Module] = [nn.Linear(config.mm_hidden_size, config.hidden_size)]
    for _ in range(int(found[1]) - 1):
        layers += [nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size)]
    return nn.Sequential(*layers)
