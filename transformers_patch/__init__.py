"""Drop-in replacements for transformers 4.31.0's Trainer and LlamaForCausalLM that carry a task weighter.

    from transformers_patch import EqualWeighting, LlamaForCausalLM, Trainer

or, for code that imports from transformers and cannot be edited, `patch()` before its imports and `unpatch()` after.
Needs torch and transformers only.
"""

from transformers_patch.modeling_llama import LlamaForCausalLM, LlamaModel
from transformers_patch.patching import patch, unpatch
from transformers_patch.trainer import Trainer
from transformers_patch.weighter import EqualWeighting, Weighter, build_weighter

__all__ = [
    "EqualWeighting",
    "LlamaForCausalLM",
    "LlamaModel",
    "Trainer",
    "Weighter",
    "build_weighter",
    "patch",
    "unpatch",
]
