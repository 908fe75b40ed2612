"""Names of weights in LLaVA's checkpoints and in Hugging Face's `LlavaForConditionalGeneration`.

On the disk Hugging Face's are those of the llava-hf repositories; files may also have the names that transformers has
used in memory since 4.52.
"""

from collections.abc import Mapping

import torch

from llava.model.builder import TOWER_PREFIX
from visatb.errors import InputError

TOWER = "vision_tower.vision_model."
EMBEDDINGS, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"

# LLaVA's, Hugging Face's; the first that fits counts.
_PREFIXES = (
    (f"{TOWER_PREFIX}vision_model.", TOWER),
    ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
    ("model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
# In memory of later transformers, on the disk of the hub.
_LATER = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)
# Recomputed from the configuration; not stored in Hugging Face's files.
_COUNTED = ("rotary_emb.inv_freq", "embeddings.position_ids")


def is_counted(name: str) -> bool:
    """Whether a tensor follows from the configuration, under either name."""
    return name.endswith(_COUNTED)


def to_hf(name: str) -> str:
    """Hugging Face's name of a tensor of LLaVA's. Raises InputError if it has none."""
    for ours, theirs in _PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise InputError(f"{name} is not part of Hugging Face's layout. Use a LLaVA-1.5 checkpoint.")


def from_hf(name: str) -> str:
    """LLaVA's name of a tensor of Hugging Face's. Raises InputError if it has none."""
    found = name
    for later, on_disk in _LATER:
        if name.startswith(later):
            found = on_disk + name.removeprefix(later)
            break
    if found.startswith("vision_tower.") and not found.startswith(TOWER):  # transformers 5 drops a level of modules
        found = TOWER + found.removeprefix("vision_tower.")
    for ours, theirs in _PREFIXES:
        if found.startswith(theirs):
            return ours + found.removeprefix(theirs)
    raise InputError(f"{name} is not part of a LLaVA-1.5 model. Use a llava-1.5 checkpoint in Hugging Face's layout.")


def renamed_from_hf(weights: Mapping[str, torch.Tensor], source: str) -> dict[str, torch.Tensor]:
    """Weights under LLaVA's names. Raises InputError if two of Hugging Face's spellings stand for one tensor."""
    renamed = {from_hf(name): tensor for name, tensor in weights.items() if not is_counted(name)}
    if len(renamed) != sum(not is_counted(name) for name in weights):
        raise InputError(f"{source}: has the same weights under two names. Use a complete checkpoint.")
    return renamed


def grown(weight_VD: torch.Tensor, rows: int) -> torch.Tensor:
    """Embeddings [V, D] with as many rows as asked for, >= V.

    New rows are the mean of the others, so that a new token is never the most likely one.
    """
    mean_1D = weight_VD.float().mean(dim=0, keepdim=True).to(weight_VD.dtype)
    return torch.cat([weight_VD, mean_1D.expand(rows - len(weight_VD), -1)])
