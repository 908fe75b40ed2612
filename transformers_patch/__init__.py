"""Drop-in replacements for transformers 4.31.0's Trainer and LlamaForCausalLM that carry a task weighter.

    from transformers_patch import EqualWeighting, LlamaForCausalLM, Trainer

or, for code that imports from transformers and cannot be edited, `patch()` before its imports and `unpatch()` after.
Needs torch and transformers only.
"""

from transformers_patch.modeling_llama import LlamaForCausalLM, LlamaModel
from transformers_patch.patching import patch, unpatch
from transformers_patch.strategies import (
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
