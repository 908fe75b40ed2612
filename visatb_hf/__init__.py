"""Task weights for current vision-language models: transformers 5's Trainer and TRL's SFTTrainer, exact to Eq. 2.

    from visatb_hf import WeightedTrainer, build_weighter

Needs the environment of requirements-hf.txt; the rest of the repository runs with transformers 4.31.0 in its own.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers_patch import Weighter, build_weighter

if TYPE_CHECKING:
    from visatb_hf.collator import TaskCollator
    from visatb_hf.sft import WeightedSFTTrainer
    from visatb_hf.trainer import TaskWeighting, WeightedTrainer

_MODULES = {
    "TaskCollator": "collator",
    "TaskWeighting": "trainer",
    "WeightedSFTTrainer": "sft",
    "WeightedTrainer": "trainer",
}

__all__ = ["TaskCollator", "TaskWeighting", "WeightedSFTTrainer", "WeightedTrainer", "Weighter", "build_weighter"]


def __getattr__(name: str) -> Any:
    """Import trainers on first use: only WeightedSFTTrainer needs TRL (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
