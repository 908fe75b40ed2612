"""What a task weighting strategy is: what a token of each task counts in the loss (torch alone).

A strategy is an `nn.Module`, so that it moves, saves and resumes with the run. It holds only its rule:

* `token_weights(count_K)`: the weight of a token of each task, and what the weighted sum is divided by;
* `begin_step()`: called before every optimizer step, for strategies that draw;
* `observe(mean_K, count_K)`: called after every optimizer step with the step's mean losses, the same on all ranks,
  for strategies with a history.

What changes over a run lives in buffers. A weight that is learned does too and is updated in `observe`: parameters
of a strategy would stand outside the model that DDP and DeepSpeed know of.

With `loss_normalization=batch` a micro-batch takes the place of the step, in the order of the paper's reference code:
`begin_step`, `observe` with the micro-batch's own losses, and only then its weights.

Shapes: K tasks, T supervised tokens of a micro-batch.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from transformers_patch.loss import check_task_ids, task_loss_sums, weighted_token_loss
from visatb.errors import InputError, shown


class Weighter(nn.Module):
    """Base of all strategies: Eq. 2 of arXiv 2403.04343 with the weights of `token_weights`.

    Args:
        num_tasks: K, at least 1.
        weights: K numbers > 0; ones if None.

    Attributes:
        weight_K: float32 buffer, the current task weights lambda.
        sum_over_ranks: how `batch` normalisation adds a small tensor up over all ranks; the Trainer sets it.
    """

    def __init__(self, num_tasks: int, weights: Sequence[float] | None = None):
        super().__init__()
        if num_tasks < 1:
            raise ValueError(f"num_tasks must be at least 1, got {num_tasks}. Name the tasks of the benchmark.")
        self.num_tasks = num_tasks
        self.sum_over_ranks: Callable[[torch.Tensor], torch.Tensor] = _alone
        self.register_buffer("weight_K", torch.ones(num_tasks))
        if weights is not None:
            self.set_weights(weights)

    def set_weights(self, weights: Sequence[float]) -> None:
        """Set the task weights.

        Args:
            weights: K numbers > 0, in task-id order.

        Raises:
            ValueError: another number of weights, one that is not a finite number > 0, or a strategy that computes
                its own.
        """
        check_weights(weights, self.num_tasks)
        self.weight_K.copy_(torch.as_tensor(list(weights), dtype=self.weight_K.dtype))

    def token_weights(self, count_K: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The weight of a token of each task, float [K], and the normalizer, a scalar.

        Args:
            count_K: supervised tokens of each task in the step (or in the micro-batch).
        """
        return self.weight_K, (self.weight_K * count_K).sum()

    def batch_token_weights(self, count_K: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`token_weights` of a micro-batch that stands for the step, where the reference differs."""
        return self.token_weights(count_K)

    def loss_weights(self, task_T: torch.Tensor, count_K: torch.Tensor | None) -> torch.Tensor | None:
        """What each token's loss is multiplied by in `forward`, float [T]; None if that takes the losses to know.

        Args:
            task_T, count_K: as for `forward`.
        """
        if count_K is None or type(self).forward is not Weighter.forward:
            return None
        weight_K, normalizer = self.token_weights(count_K)
        return (weight_K / torch.where(normalizer == 0, 1, normalizer))[task_T]

    def begin_step(self) -> None:
        """Called before every optimizer step. Draws must use a generator that agrees on all ranks."""

    def observe(self, mean_K: torch.Tensor, count_K: torch.Tensor) -> None:
        """Called after every optimizer step.

        Args:
            mean_K: float64, mean token loss of each task over the step and all ranks; NaN where count_K is 0.
            count_K: int64, supervised tokens of each task over the step and all ranks.
        """

    def forward(
        self, token_loss_T: torch.Tensor, task_T: torch.Tensor, count_K: torch.Tensor | None = None
    ) -> torch.Tensor:
        """This micro-batch's share of the weighted loss, a scalar.

        Args:
            token_loss_T: float [T], cross-entropy of each supervised token.
            task_T: int64 [T], its task id.
            count_K: supervised tokens of each task in the whole optimizer step (Eq. 2 as written); None takes this
                micro-batch for the step, as the reference does. In eval mode it is not observed.

        Raises:
            ValueError: a task id that is not in 0..K-1.
        """
        if count_K is None:
            weight_K, normalizer = self._look_at(token_loss_T, task_T)
        else:
            weight_K, normalizer = self.token_weights(count_K)
        return weighted_token_loss(token_loss_T, weight_K[task_T], normalizer)

    def _look_at(self, token_loss_T: torch.Tensor, task_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        check_task_ids(task_T, self.num_tasks)
        loss_sum_K, count_K = task_loss_sums(token_loss_T, task_T, self.num_tasks)
        if self.training:
            self.begin_step()
            if type(self).observe is not Weighter.observe:  # else nobody waits for the other ranks
                all_sum_K, all_count_K = self.sum_over_ranks(torch.stack([loss_sum_K, count_K.double()]))
                self.observe(all_sum_K / all_count_K, all_count_K.long())
        return self.batch_token_weights(count_K)


def _alone(values: torch.Tensor) -> torch.Tensor:
    return values


def check_weights(weights: Sequence[float], num_tasks: int, source: str = "--visatb_weights") -> None:
    """Refuse a weight vector of another length or with a value that is not a finite number > 0.

    Raises:
        ValueError: says which value and where it came from.
    """
    if len(weights) != num_tasks:
        raise ValueError(
            f"visatb_weights must have {num_tasks} values (one per task, in id order), got {len(weights)} ({source}). "
            "Pass one weight per task."
        )
    for n, weight in enumerate(weights):
        if not math.isfinite(weight) or weight <= 0:
            raise ValueError(
                f"visatb_weights must be finite numbers > 0, got {weight} at position {n} ({source}). Fix the weight."
            )


def refuse_parameters(weighter: nn.Module) -> None:
    """Refuse a strategy with parameters: no optimizer would move them.

    Raises:
        ValueError: names the first.
    """
    for name, _ in weighter.named_parameters():
        raise ValueError(
            f"{type(weighter).__name__}.{name} must be a buffer, got a parameter, which no optimizer would move. "
            "Use register_buffer, and update it in observe."
        )


def refuse_bad_weights(weighter: Weighter, loss_sum_K: torch.Tensor, count_K: torch.Tensor, step: int) -> None:
    """Name the strategy where a loss is not finite because of its weights: each task's own loss is finite.

    Args:
        weighter: the strategy, as it was when the loss was computed.
        loss_sum_K, count_K: of the step, over all ranks.
        step: its number, for the message.

    Raises:
        InputError: a token weight or the normalizer is NaN or infinite.
    """
    weight_K, normalizer = weighter.token_weights(count_K)
    values = [*weight_K.tolist(), float(normalizer)]
    if loss_sum_K.isfinite().all() and not all(map(math.isfinite, values)):
        raise InputError(
            f"step {step}: the task weights of {type(weighter).__name__} and their sum over tokens must be finite, got "
            f"{shown(values[:-1])} and {values[-1]}; the loss of each task is finite. No optimizer step was taken. "
            "Fix the strategy (--weight_method)."
        )
