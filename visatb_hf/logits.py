"""Logits processors for transformers 5 whose result does not depend on the other rows of the batch.

Shapes: B rows, S padded prompt length, V vocabulary.
"""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, RepetitionPenaltyLogitsProcessor

from llava.generate.logits import SeededNoise


class Noise(LogitsProcessor):
    """Turns the argmax that follows into sampling, with a separate generator for each row (`SeededNoise`)."""

    def __init__(self, keys: Sequence[str]):
        self._noise = SeededNoise(keys)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        return self._noise(scores, range(len(scores)))


class RepetitionPenalty(RepetitionPenaltyLogitsProcessor):
    """transformers' own, with the padding on the left read as the row's first token.

    The penalty is applied once for each id that occurs, so a row is treated as it would be without padding; pad tokens
    are end tokens for some models, and penalising them would make padded rows end later.
    """

    def __init__(self, penalty: float, mask_BS: torch.Tensor):
        super().__init__(penalty)
        self._mask_BS = mask_BS.bool()

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        length = self._mask_BS.shape[1]
        prompt_BS = input_ids[:, :length]
        first_B1 = prompt_BS.gather(1, self._mask_BS.int().argmax(dim=1, keepdim=True))
        prompt_BS = torch.where(self._mask_BS, prompt_BS, first_B1)
        return super().__call__(torch.cat([prompt_BS, input_ids[:, length:]], dim=1), scores)
