"""Choosing a vision tower."""

from typing import Any

from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from visatb.errors import InputError


def build_vision_tower(vision_tower_cfg: Any, **kwargs: Any) -> CLIPVisionTower:
    """The CLIP tower that `mm_vision_tower` (a checkpoint's config) or `vision_tower` (training arguments) names.

    Args:
        vision_tower_cfg: config or arguments.
        kwargs: for CLIPVisionTower, such as delay_load.
    """
    name = getattr(vision_tower_cfg, "mm_vision_tower", getattr(vision_tower_cfg, "vision_tower", None))
    if not name:
        raise InputError("vision_tower must be a folder or Hub name of a CLIP model. Set --vision_tower.")
    return CLIPVisionTower(name, args=vision_tower_cfg, **kwargs)
