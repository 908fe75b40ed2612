"""Drop-in replacements for transformers 4.31.0's Trainer and LlamaForCausalLM that carry a task weighter.

    from transformers_patch import EqualWeighting, LlamaForCausalLM, Trainer

or, for code that imports from transformers and cannot be edited, `patch()` before its imports and `unpatch()` after.
Weighter and strategies need torch alone; Trainer and model are imported, and with them transformers, on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers_patch.strategies import (
    DynamicWeightAverage,
    EqualWeighting,
    EqualWeightingTaskBalancing,
    ImprovableGapBalancing,
    RandomLossWeighting,
    UncertaintyWeighting,
)
from transformers_patch.weight_method import build_weighter
from transformers_patch.weighter import Weighter

if TYPE_CHECKING:
    from transformers_patch.modeling_llama import LlamaForCausalLM, LlamaModel
    from transformers_patch.patching import patch, unpatch
    from transformers_patch.trainer import Trainer

_NEED_TRANSFORMERS = {
    "LlamaForCausalLM": "modeling_llama",
    "LlamaModel": "modeling_llama",
    "Trainer": "trainer",
    "patch": "patching",
    "unpatch": "patching",
}

__all__ = [
    "DynamicWeightAverage",
    "EqualWeighting",
    "EqualWeightingTaskBalancing",
    "ImprovableGapBalancing",
    "LlamaForCausalLM",
    "LlamaModel",
    "RandomLossWeighting",
    "Trainer",
    "UncertaintyWeighting",
    "Weighter",
    "build_weighter",
    "patch",
    "unpatch",
]


def __getattr__(name: str) -> Any:
    """Import Trainer, model and patching on first use (PEP 562)."""
    if name not in _NEED_TRANSFORMERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEED_TRANSFORMERS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
