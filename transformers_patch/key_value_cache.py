"""Keys and values of past positions in memory that new ones are written into.

Shapes: B rows, H heads, S positions, E head size.
"""

from collections.abc import Sequence

import torch

_BLOCK = 128  # positions by which the memory grows: few copies, little of it unused


class LayerCache:
    """Keys and values [B, H, S, E] of one decoder layer; indexed as the tuple (key, value) that transformers uses.

    Args:
        key, value: of the positions so far, as the first forward pass returns them.
    """

    def __init__(self, key: torch.Tensor, value: torch.Tensor):
        self._memory = [key, value]
        self._length = key.shape[2]

    def __getitem__(self, part: int) -> torch.Tensor:
        return self._memory[part][:, :, : self._length]

    def append(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the keys and values of further positions; returns all of them."""
        start, end = self._length, self._length + key.shape[2]
        if end > self._memory[0].shape[2]:
            for part in range(2):
                self._memory[part] = self._larger(part, end + _BLOCK)
        for memory, new in zip(self._memory, (key, value), strict=True):
            memory[:, :, start:end] = new
        self._length = end
        return self[0], self[1]

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order. Rows that stay at their place cost nothing."""
        moved = [place for place, row in enumerate(rows) if place != row]
        sources = [rows[place] for place in moved]
        for part, memory in enumerate(self._memory):
            if moved:
                memory[moved, :, : self._length] = memory[sources, :, : self._length]
            self._memory[part] = memory[: len(rows)]

    def _larger(self, part: int, positions: int) -> torch.Tensor:
        old = self[part]
        larger = old.new_empty((*old.shape[:2], positions, old.shape[3]))
        larger[:, :, : self._length] = old
        return larger
