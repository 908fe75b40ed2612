"""What is done to logits between the model and the choice of a token.

Shapes: B rows, V vocabulary.
"""

import hashlib
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


class NumberWatch(LogitsProcessor):
    """Notes rows whose logits were not numbers (half precision overflowed); looked at once, after generation."""

    def __init__(self):
        self._bad_B: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        bad_B = scores.isnan().any(-1)
        self._bad_B = bad_B if self._bad_B is None else self._bad_B | bad_B
        return scores

    def check(self, batch: int) -> None:
        """Raise FloatingPointError if a row of the batch met NaN."""
        if self._bad_B is not None and bool(self._bad_B.any()):
            raise FloatingPointError(f"logits are not numbers in a batch of {batch}; try --dtype fp32 or bf16")


class SeededNoise(LogitsProcessor):
    """Turns the argmax that follows into a draw from softmax(scores), by a generator of each row's own.

    Adding Gumbel noise and taking the largest is sampling (Gumbel-max). The draws come from the CPU, so that they are
    the same on every device.
    """

    def __init__(self, keys: Sequence[str]):
        seeds = [int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") >> 1 for key in keys]
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        draw = torch.empty(scores.shape[-1])
        noise_BV = torch.stack([-draw.exponential_(generator=g).log() for g in self._generators])
        return scores.float() + noise_BV.to(scores.device)
