"""Loads the batches of one optimizer step at a time, with the number of supervised tokens of the step.

Eq. 2 of arXiv 2403.04343 divides by the weighted token count of the whole step, which must be known before the first
backward pass. The loader reads all micro-batches of a step ahead, counts their tokens, and attaches the counts to each.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, tee
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from transformers_patch.dealing import Dealing, StepBalance
from transformers_patch.unpadded import Batch, silenced


class ReadError(RuntimeError):
    """The samples of the next step could not be read; raised on all ranks, before anything of that step is computed.

    Its `__cause__` is the error of this rank, None if only others have failed.

    Args:
        kinds: names of the exceptions of all ranks.
    """

    def __init__(self, kinds: Sequence[str]):
        super().__init__(f"the samples of the next step could not be read ({', '.join(kinds)})")
        self.kinds = set(kinds)


def refuse_unread(problem: Exception | None) -> None:
    """Raise ReadError if reading has failed: `check_read` of a single process."""
    if problem is not None:
        raise ReadError([type(problem).__name__]) from problem


@dataclass(frozen=True)
class StepLayout:
    """Assignment of the samples of an optimizer step.

    The step takes the next `samples_per_step` of the epoch's order, so its set of samples does not depend on how
    they are split. The last step of an epoch uses the remaining samples; nothing is dropped or read twice.

    Attributes:
        per_device: samples of a micro-batch on one rank.
        accumulation: micro-batches of a step on one rank.
        world_size, rank: number of processes, and this one.
        dealing: assigns them by work; None: in order, equally many to each micro-batch.
    """

    per_device: int
    accumulation: int
    world_size: int = 1
    rank: int = 0
    dealing: Dealing | None = None

    @property
    def samples_per_step(self) -> int:
        """Samples of a full step over all ranks and micro-batches."""
        return self.per_device * self.accumulation * self.world_size

    def steps(self, num_samples: int) -> int:
        """Optimizer steps of an epoch."""
        return -(-num_samples // self.samples_per_step)

    def samples(self, order: Sequence[int], step: int) -> list[int]:
        """The samples of a step."""
        return list(order[step * self.samples_per_step : (step + 1) * self.samples_per_step])

    def parts(self, samples: Sequence[int]) -> list[list[int]]:
        """A step's samples as assigned: all ranks' first micro-batches, then their second ones, and so on."""
        if self.dealing is not None:
            return self.dealing.deal(samples, self.world_size * self.accumulation)
        return self._in_order(samples)

    def _in_order(self, samples: Sequence[int]) -> list[list[int]]:
        starts = range(0, self.samples_per_step, self.per_device)
        return [list(samples[start : start + self.per_device]) for start in starts]

    def micro_batches(self, order: Sequence[int], step: int) -> list[tuple[list[int], bool]]:
        """This rank's micro-batches of a step: (sample indices, whether they count).

        In a short last step, a micro-batch without samples reads one of another micro-batch and does not count: every
        rank and every accumulation step must still run its forward and backward pass.
        """
        samples = self.samples(order, step)
        spare = samples[0] if self.dealing is None else self.dealing.shortest(samples)
        return [
            (part, True) if part else ([spare], False) for part in self.parts(samples)[self.rank :: self.world_size]
        ]

    def balance(self, order: Sequence[int], step: int) -> StepBalance | None:
        """Balance of a step that is assigned by work."""
        if self.dealing is None:
            return None
        samples = self.samples(order, step)
        return self.dealing.balance(self._in_order(samples), self.parts(samples), self.world_size)


class StepLoader:
    """A data loader that yields the micro-batches of one optimizer step after another.

    Each batch gains `sample_indices` (none if it does not count), `step_balance` if the samples are dealt by work, and,
    if `count_tokens` is given, `token_count_K`.

    Args:
        dataset: map-style.
        collate: list of samples -> batch with `labels` [B, S], or `unpadded`.
        layout: how samples are dealt out.
        order_of_epoch: epoch -> sample indices, the same on all ranks.
        position: optimizer steps already taken; an interrupted epoch resumes there without reading earlier samples.
        end: optimizer steps of the whole run; a run that was interrupted after its last one has nothing to read.
        count_tokens: the micro-batches of this rank's step -> int64 [K] over all ranks.
        check_read: given what went wrong on this rank in reading a step, or None, raises ReadError on all ranks if it
            went wrong on any.
        loader_options: further arguments of torch's DataLoader (workers, pinning).
    """

    def __init__(
        self,
        dataset: Dataset,
        collate: Callable[[list], Batch],
        layout: StepLayout,
        order_of_epoch: Callable[[int], Sequence[int]],
        position: Callable[[], int],
        end: Callable[[], int] | None = None,
        count_tokens: Callable[[list[Batch]], torch.Tensor] | None = None,
        check_read: Callable[[Exception | None], None] = refuse_unread,
        **loader_options: Any,
    ):
        self.dataset = dataset
        self.layout = layout
        self.batch_size = layout.per_device
        self._collate = collate
        self._order_of_epoch = order_of_epoch
        self._position = position
        self._end = end
        self._count_tokens = count_tokens
        self._check_read = check_read
        self._loader_options = loader_options

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return self.layout.steps(len(self.dataset))

    def __len__(self) -> int:
        return self.steps_per_epoch * self.layout.accumulation

    def __iter__(self) -> Iterator[Batch]:
        epoch, first_step = divmod(self._position(), self.steps_per_epoch)
        order = self._order_of_epoch(epoch)
        end = self.steps_per_epoch
        if self._end is not None:
            end = min(end, self._end() - epoch * self.steps_per_epoch)
        # Assigned while reading: an epoch of a large run has many thousand steps.
        parts = (part for step in range(first_step, end) for part in self.layout.micro_batches(order, step))
        plan, wanted = tee(parts)
        loader = DataLoader(
            self.dataset,
            batch_sampler=(indices for indices, _ in wanted),
            collate_fn=self._collate,
            # Its own generator: torch's DataLoader draws one number per epoch, and a resumed run would draw one more.
            generator=torch.Generator().manual_seed(epoch),
            **self._loader_options,
        )
        batches = zip(plan, loader, strict=True)
        for step in range(first_step, end):
            window = self._with_counts(self._read_step(batches))
            balance = self.layout.balance(order, step)
            yield from (batch if balance is None else batch | {"step_balance": balance} for batch in window)

    def _read_step(self, batches: Iterator[tuple[tuple[list[int], bool], Batch]]) -> list[Batch]:
        window: list[Batch] = []
        problem = None
        try:
            for (indices, counts), batch in islice(batches, self.layout.accumulation):
                window.append((batch if counts else silenced(batch)) | {"sample_indices": indices if counts else []})
        except Exception as error:  # any error, including a dead worker: the other ranks wait for this one
            problem = error
        self._check_read(problem)
        return window

    def _with_counts(self, window: list[Batch]) -> list[Batch]:
        if self._count_tokens is not None:
            token_count_K = self._count_tokens(window)
            for batch in window:
                batch["token_count_K"] = token_count_K
        return window
