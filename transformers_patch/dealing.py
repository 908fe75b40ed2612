"""Distributes the samples of an optimizer step so that all ranks finish together (integer arithmetic).

Eq. 2 over the step does not depend on how the step's samples are split: they are assigned, longest first, to the
micro-batch with the least work, and then the fullest micro-batch exchanges samples with the emptiest. Work is an
integer, so that ranks on different processors agree.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapreplace


@dataclass(frozen=True)
class StepBalance:
    """Balance of a step.

    Attributes:
        positions: of its samples.
        padded_positions: positions if assigned in order and padded to the longest of each micro-batch.
        slowest_work, mean_work: work of the slowest rank, and the mean of all ranks.
    """

    positions: int
    padded_positions: int
    slowest_work: int
    mean_work: float


class Dealing:
    """Assigns samples by their work.

    Args:
        lengths: positions of each sample of the data set, known or estimated, the same on all ranks.
        hidden_size: of the decoder: a token costs as much in its matrices as in attention to 12 of those positions.
    """

    def __init__(self, lengths: Sequence[int], hidden_size: int):
        self.lengths = lengths
        self._linear = 12 * hidden_size

    def work(self, length: int) -> int:
        """Work of a sample of that many positions, in units that cancel."""
        return length * (self._linear + length)

    def deal(self, samples: Sequence[int], parts: int) -> list[list[int]]:
        """Split the samples into that many parts of nearly equal work; empty parts come last."""
        dealt: list[list[int]] = [[] for _ in range(parts)]
        least = [(0, part) for part in range(parts)]
        for sample in sorted(samples, key=self.lengths.__getitem__, reverse=True):
            work, part = least[0]
            dealt[part].append(sample)
            heapreplace(least, (work + self.work(self.lengths[sample]), part))
        if len(samples) > parts:
            self._even_out(dealt)
        return dealt

    def _even_out(self, parts: list[list[int]]) -> None:
        """Move or exchange samples between the fullest and the emptiest part as long as it helps."""
        total = [sum(self.work(self.lengths[sample]) for sample in part) for part in parts]
        for _ in range(2 * len(parts)):
            most, least = total.index(max(total)), total.index(min(total))
            gap = total[most] - total[least]
            best = max(self._exchanges(parts[most], parts[least]), key=lambda way: min(way[0], gap - way[0]))
            moved, given, taken = best
            if not 0 < moved < gap:
                return
            parts[most].remove(given)
            parts[least].append(given)
            if taken is not None:
                parts[least].remove(taken)
                parts[most].append(taken)
            total[most] -= moved
            total[least] += moved

    def _exchanges(self, most: list[int], least: list[int]) -> Iterator[tuple[int, int, int | None]]:
        """Possible exchanges of a part: (work moved, sample given, sample received)."""
        offers = [(0, None), *((self.work(self.lengths[sample]), sample) for sample in least)]
        for given in most:
            work = self.work(self.lengths[given])
            yield from ((work - back, given, taken) for back, taken in offers)

    def shortest(self, samples: Sequence[int]) -> int:
        """The sample with the least work."""
        return min(samples, key=self.lengths.__getitem__)

    def balance(self, in_order: list[list[int]], dealt: list[list[int]], ranks: int) -> StepBalance:
        """How even a step is.

        Args:
            in_order, dealt: its micro-batches, padded and by work, all ranks' first ones before their second ones.
            ranks: number of ranks.
        """
        lengths = [[self.lengths[sample] for sample in part] for part in in_order if part]
        work = [sum(self.work(self.lengths[sample]) for sample in part) for part in dealt]
        return StepBalance(
            positions=sum(map(sum, lengths)),
            padded_positions=sum(max(part) * len(part) for part in lengths),
            slowest_work=max(sum(work[rank::ranks]) for rank in range(ranks)),
            mean_work=sum(work) / ranks,
        )
