"""What is done to logits between the model and the choice of a token.

Shapes: B rows, V vocabulary.
"""

import hashlib
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


class NumberWatch(LogitsProcessor):
    """Notes whether any row's logits were not numbers (half precision overflowed); looked at after generation."""

    def __init__(self):
        self._bad: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        bad = scores.isnan().any()
        self._bad = bad if self._bad is None else self._bad | bad
        return scores

    def check(self, batch: int) -> None:
        """Raise FloatingPointError if a row of the batch met NaN."""
        if self._bad is not None and bool(self._bad):
            raise FloatingPointError(f"logits are not numbers in a batch of {batch}; try --dtype fp32 or bf16")


class SeededNoise:
    """Turns the argmax that follows into a draw from softmax(scores), by a generator of each row's own.

    Adding Gumbel noise and taking the largest is sampling (Gumbel-max). The draws come from the CPU, so that they are
    the same on every device.
    """

    def __init__(self, keys: Sequence[str]):
        seeds = [int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") >> 1 for key in keys]
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, scores_BV: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """The scores with noise; `rows` says whose key each row of scores has."""
        draw = torch.empty(scores_BV.shape[-1])
        noise_BV = torch.stack([-draw.exponential_(generator=self._generators[row]).log() for row in rows])
        return scores_BV.float() + noise_BV.to(scores_BV.device)
