"""Replaces transformers' classes by ours, reversibly; no file of transformers is changed."""

import importlib

import transformers
from transformers import Trainer as StockTrainer

from transformers_patch.compat import SUPPORTED_TRANSFORMERS
from transformers_patch.modeling_llama import LlamaForCausalLM, StockLlamaForCausalLM
from transformers_patch.trainer import Trainer

_PLACES = (
    ("transformers", "Trainer"),
    ("transformers.trainer", "Trainer"),
    ("transformers", "LlamaForCausalLM"),
    ("transformers.models.llama", "LlamaForCausalLM"),
    ("transformers.models.llama.modeling_llama", "LlamaForCausalLM"),
)


def patch() -> None:
    """Let `transformers.Trainer` and `transformers.LlamaForCausalLM` name our classes (twice does no harm).

    Code that took the names out of transformers before keeps the stock classes.

    Raises:
        ValueError: another transformers than 4.31.0.
    """
    if transformers.__version__ != SUPPORTED_TRANSFORMERS:
        raise ValueError(
            f"transformers must be {SUPPORTED_TRANSFORMERS}, got {transformers.__version__}. "
            f"pip install transformers=={SUPPORTED_TRANSFORMERS}"
        )
    _put(Trainer, LlamaForCausalLM)


def unpatch() -> None:
    """Restore transformers' own classes."""
    _put(StockTrainer, StockLlamaForCausalLM)


def _put(trainer: type, llama: type) -> None:
    for module, name in _PLACES:
        setattr(importlib.import_module(module), name, trainer if name == "Trainer" else llama)
