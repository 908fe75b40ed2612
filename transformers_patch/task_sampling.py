"""Epochs that draw the tasks at other rates than their data: the rival of weighting their losses.

An epoch keeps its number of samples N. Task k takes part in it count_k times, exactly: N times its rate, rounded by
largest remainder. Its records come in passes over all of them, each in a new random order, and an epoch takes up where
the one before ended. So after any number of epochs two records of a task differ by at most one occurrence.
"""

# N samples, K tasks

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from visatb.sampling import PROPORTIONAL, SQRT, WEIGHTS, read_sampling


def task_counts(sizes_K: Sequence[int], sampling: str, weight_K: Sequence[float] | None = None) -> list[int]:
    """How often each task takes part in an epoch.

    The rates are proportional to n_k, sqrt(n_k), n_k^(1/T) or lambda_k n_k, for n_k records.

    Args:
        sizes_K: records of each task; a task without records is not drawn.
        sampling: as of `read_sampling`.
        weight_K: task weights lambda, for `weights`.

    Returns:
        counts whose sum is that of `sizes_K`; `sizes_K` itself for `proportional`.

    Raises:
        ValueError: an invalid sampling; weights that are missing, of the wrong number or not > 0.
    """
    kind, temperature = read_sampling(sampling)
    if kind == PROPORTIONAL:
        return list(sizes_K)
    sizes = torch.tensor(sizes_K, dtype=torch.float64)
    if kind == WEIGHTS:
        weights = torch.tensor([] if weight_K is None else weight_K, dtype=torch.float64)
        if weights.shape != sizes.shape or not ((weights > 0) & weights.isfinite()).all():
            raise ValueError(f"task_sampling {WEIGHTS} must have {len(sizes)} weights > 0, got {weights.tolist()}.")
        rates = weights * sizes
    else:
        rates = sizes ** (0.5 if kind == SQRT else 1 / temperature)
        rates[sizes == 0] = 0
    exact = rates / rates.sum() * sizes.sum()
    counts = exact.floor()
    missing = int(sizes.sum() - counts.sum())
    counts[(counts - exact).argsort(stable=True)[:missing]] += 1
    return [int(count) for count in counts]


def sampler_of(
    task_N: Sequence[int], num_tasks: int, sampling: str, weight_K: Sequence[float] | None, seed: int
) -> "TaskSampler | None":
    """The sampler of a value of `task_sampling`; None where tasks are drawn in proportion to their records."""
    if sampling == PROPORTIONAL:
        return None
    sizes_K = torch.bincount(torch.as_tensor(task_N, dtype=torch.long), minlength=num_tasks).tolist()
    return TaskSampler(task_N, task_counts(sizes_K, sampling, weight_K), seed)


class TaskSampler(Sampler[int]):
    """The samples of an epoch, drawn by task; a function of seed and epoch alone.

    Args:
        task_N: task id of each sample.
        count_K: how often each task takes part in an epoch, as of `task_counts`.
        seed: of the order.

    Attributes:
        count_K: as given.
        epoch: the one that comes next.
    """

    def __init__(self, task_N: Sequence[int], count_K: Sequence[int], seed: int = 0):
        task = torch.as_tensor(task_N, dtype=torch.long)
        self.seed = seed
        self.epoch = 0
        self.count_K = list(count_K)
        self._members_K = [torch.nonzero(task == k).flatten() for k in range(len(self.count_K))]
        for k, (members, count) in enumerate(zip(self._members_K, self.count_K, strict=True)):
            if count < 0 or (count and not len(members)):
                raise ValueError(f"task {k} has {len(members)} samples and cannot be drawn {count} times.")

    def __len__(self) -> int:
        return sum(self.count_K)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose samples come next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """The samples of one epoch; the next call gives the next epoch's."""
        drawn = torch.cat([self._drawn(k, self.epoch) for k in range(len(self.count_K))])
        generator = torch.Generator().manual_seed(self._seed_of(len(self.count_K), self.epoch))
        self.epoch += 1
        return iter(drawn[torch.randperm(len(drawn), generator=generator)].tolist())

    def unread(self, epochs: float) -> list[int]:
        """Of each task the records that as many epochs do not reach."""
        read = (int(count * epochs) for count in self.count_K)
        return [max(0, len(members) - n) for members, n in zip(self._members_K, read, strict=True)]

    def _drawn(self, task: int, epoch: int) -> torch.Tensor:
        """The task's samples of an epoch: the next `count` of its passes."""
        members, count = self._members_K[task], self.count_K[task]
        if not count:
            return members[:0]
        start = epoch * count
        first, last = start // len(members), (start + count - 1) // len(members)
        passes = []
        for number in range(first, last + 1):
            generator = torch.Generator().manual_seed(self._seed_of(task, number))
            passes.append(members[torch.randperm(len(members), generator=generator)])
        offset = start - first * len(members)
        return torch.cat(passes)[offset : offset + count]

    def _seed_of(self, stream: int, number: int) -> int:
        """A seed for each pass of each task, and for each epoch."""
        return (self.seed * 1_000_003 + number) * 1_009 + stream
