"""The sampler that puts samples of similar length into a batch.

Shapes: N samples.
"""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class LengthGroupedSampler(Sampler[int]):
    """A random order in which each batch holds samples of similar length, or the batches of a step equal totals.

    The order depends on the seed and the epoch alone, so all ranks draw the same one. Samples are shuffled and cut into
    groups of one step. The batches of a step are cut out of its samples in descending order of length, which pads
    least; where nothing is padded, they are dealt out, longest first, each to the batch that holds least so far.

    Which samples share a step stays a matter of chance: steps that are grouped by length themselves hold few tasks, and
    in a step of one task its weight cancels out of the mean. That is the price of `group_by_modality`: with it a group
    holds either samples with images or text-only ones, but for one group at most.

    Args:
        batch_size: samples of one batch.
        world_size: batches of one step: ranks times accumulation steps.
        lengths: length of each sample; with `group_by_modality`, negative for text-only samples.
        generator: draws the order instead of seed and epoch, as in LLaVA.
        group_by_modality: keep text-only samples apart.
        seed: of the order; the epoch is added.
        padded: whether the samples of a batch are padded to the longest.
    """

    def __init__(
        self,
        batch_size: int,
        world_size: int,
        lengths: Sequence[int],
        generator: torch.Generator | None = None,
        group_by_modality: bool = False,
        seed: int = 0,
        padded: bool = True,
    ):
        if batch_size < 1 or world_size < 1:
            raise ValueError(f"batch_size and world_size must be at least 1, got {batch_size} and {world_size}.")
        if group_by_modality and any(length == 0 for length in lengths):
            raise ValueError("lengths must not be 0 where their sign separates text from images. Use at least 1.")
        self.batch_size = batch_size
        self.world_size = world_size
        self.lengths = list(lengths)
        self.generator = generator
        self.group_by_modality = group_by_modality
        self.seed = seed
        self.padded = padded
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """The order of one epoch; the next call gives the next epoch's."""
        generator = self.generator or torch.Generator().manual_seed(self.seed + self.epoch)
        self.epoch += 1
        return iter(self._order(generator))

    def _order(self, generator: torch.Generator) -> list[int]:
        size = self.batch_size * self.world_size
        kinds = [[n for n, length in enumerate(self.lengths) if not self.group_by_modality or length > 0]]
        if self.group_by_modality:
            kinds.append([n for n, length in enumerate(self.lengths) if length < 0])
        groups, rest = [], []
        for members in kinds:
            shuffled = [members[n] for n in torch.randperm(len(members), generator=generator).tolist()]
            whole = len(shuffled) - len(shuffled) % size
            groups += [shuffled[start : start + size] for start in range(0, whole, size)]
            rest += shuffled[whole:]
        groups = [groups[n] for n in torch.randperm(len(groups), generator=generator).tolist()]
        # The remainder of both kinds comes last: it may fill more than one group, and the last one is not full.
        groups += [rest[start : start + size] for start in range(0, len(rest), size)]
        return [n for group in groups for n in self._batches(group)]

    def _batches(self, group: list[int]) -> list[int]:
        """The samples of a step, batch by batch; those of an incomplete step are sorted."""
        ordered = sorted(group, key=lambda n: -abs(self.lengths[n]))
        if self.padded or len(group) < self.batch_size * self.world_size:
            return ordered
        batches: list[list[int]] = [[] for _ in range(self.world_size)]
        totals = [0] * self.world_size
        for n in ordered:
            open_batches = [b for b in range(self.world_size) if len(batches[b]) < self.batch_size]
            least = min(open_batches, key=lambda b: totals[b])
            batches[least].append(n)
            totals[least] += abs(self.lengths[n])
        return [n for batch in batches for n in batch]
