"""Drop-in replacements for transformers 4.31.0's Trainer and LlamaForCausalLM with a task weighter.

    from transformers_patch import EqualWeighting, LlamaForCausalLM, Trainer

or, for code that imports from transformers and cannot be edited, `patch()` before its imports and `unpatch()` after.
Weighter and strategies need torch alone, Trainer and model transformers; each is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers_patch.modeling_llama import LlamaForCausalLM, LlamaModel
    from transformers_patch.patching import patch, unpatch
    from transformers_patch.strategies import (
        ComputedWeighting,
        DynamicWeightAverage,
        EqualWeighting,
        EqualWeightingTaskBalancing,
        ImprovableGapBalancing,
        RandomLossWeighting,
        UncertaintyWeighting,
    )
    from transformers_patch.trainer import Trainer
    from transformers_patch.weight_method import build_weighter
    from transformers_patch.weighter import Weighter

__all__ = [
    "ComputedWeighting",
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

_HOMES = dict.fromkeys(__all__, "strategies") | {
    "LlamaForCausalLM": "modeling_llama",
    "LlamaModel": "modeling_llama",
    "Trainer": "trainer",
    "Weighter": "weighter",
    "build_weighter": "weight_method",
    "patch": "patching",
    "unpatch": "patching",
}


def __getattr__(name: str) -> Any:
    """Import a name, and with it torch or transformers, on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
