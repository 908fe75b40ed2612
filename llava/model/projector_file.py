"""The file of stage 1: a projector's weights, `mm_projector.bin`."""

import torch
from torch import nn

from llava.model.gathering import gathered
from llava.model.weights import read_tensors
from visatb.errors import InputError


def load_projector(projector: nn.Module, path: str) -> None:
    """Fill a projector from stage 1's `mm_projector.bin`. Raises InputError if its names or shapes differ."""
    weights = projector_weights(read_tensors(path))
    with gathered(*projector.parameters()):
        wanted = projector.state_dict()
        if _shapes(weights) != _shapes(wanted):
            raise InputError(
                f"{path}: holds {_listing(weights)}; the projector needs {_listing(wanted)}. "
                f"Check --mm_projector_type and the file."
            )
        projector.load_state_dict(weights)


def _shapes(weights: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in weights.items()}


def _listing(weights: dict[str, torch.Tensor]) -> str:
    return ", ".join(f"{key} {shape}" for key, shape in _shapes(weights).items()) or "no projector weight"


def projector_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The projector's own names (`0.weight`) of a file that has `model.mm_projector.0.weight`."""
    marker = "mm_projector."
    return {key.split(marker, 1)[1]: value for key, value in weights.items() if marker in key}
