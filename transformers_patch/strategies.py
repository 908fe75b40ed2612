"""The task weighting strategies: EW, EWTB, RLW, DWA, IGB, UW (docs/weighting_strategies.md has them in one table).

Those with a history look at mean losses that are already reduced over the step and all ranks, so that every rank
computes the same weights. A task that is absent keeps its last value; one that was never seen has ratio 1.
Weights never become NaN: means that are not finite count as absent, and a ratio over 0 is 1.

Shapes: K tasks, W steps of a window.
"""

import math
from collections.abc import Sequence
from typing import NoReturn

import torch

from transformers_patch.weighter import Weighter

LEAST_WEIGHT = 1e-6  # a softmax may round to 0, and a step of such tasks alone would train nothing
MOST_LOG_VARIANCE = 50.0  # of UW, either way: beyond it exp(-s) and its square would leave float64


class EqualWeighting(Weighter):
    """EW: every task has weight 1, or the one of `--visatb_weights` (this is how VisATB's weights are used)."""


class EqualWeightingTaskBalancing(Weighter):
    """EWTB, also TLA: the mean loss of each task over its tokens, then the lambda-weighted mean over tasks.

    The mean runs over the tasks present; in a micro-batch of `batch` normalisation over all, as in the reference,
    where an absent task counts as loss 0 and still divides.
    """

    def token_weights(self, count_K: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.weight_K / count_K.clamp(min=1), (self.weight_K * (count_K > 0)).sum()

    def batch_token_weights(self, count_K: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.weight_K / count_K.clamp(min=1), self.weight_K.sum()


class ComputedWeighting(Weighter):
    """Base of strategies that compute `weight_K` themselves: Eq. 2 with it; weights cannot be set."""

    def __init__(self, num_tasks: int):
        super().__init__(num_tasks)

    def set_weights(self, weights: Sequence[float]) -> NoReturn:
        """Refused: the weights would be overwritten.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"visatb_weights must not be given to {type(self).__name__}, which computes its own weights, "
            f"got {list(weights)} (--visatb_weights). Leave it out, or use --weight_method EW."
        )


class RandomLossWeighting(ComputedWeighting):
    """RLW (arXiv 2111.10603): lambda = N * softmax(z), z ~ N(0, I_N), redrawn every step.

    Args:
        num_tasks: K.
        seed: of the draws. The generator runs on the CPU, so draws agree on all ranks and devices; its state is
            saved with the strategy.
    """

    def __init__(self, num_tasks: int, seed: int = 0):
        super().__init__(num_tasks)
        self._generator = torch.Generator().manual_seed(seed)

    def begin_step(self) -> None:
        self.weight_K.copy_(softmax_weights(torch.randn(self.num_tasks, generator=self._generator)))

    def get_extra_state(self) -> torch.Tensor:
        """State of the generator, uint8."""
        return self._generator.get_state()

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Continue drawing from the state of `get_extra_state`."""
        self._generator.set_state(state.cpu())


class DynamicWeightAverage(ComputedWeighting):
    """DWA (arXiv 1803.10704): lambda = N * softmax(r / temperature), r = newest window's mean / the one before it.

    Args:
        num_tasks: K.
        window: W, steps of each of the two windows; the weights are 1 until both are filled.
        temperature: T, > 0; higher is more equal.
        reference_history: keep the history as the paper's reference code does: an absent task enters as loss 0, and
            it starts with ones, so that weights move after W + 2 observations.
    """

    def __init__(self, num_tasks: int, window: int = 25, temperature: float = 2.0, reference_history: bool = False):
        super().__init__(num_tasks)
        check_constants(window=window, temperature=temperature)
        self.window, self.temperature, self.reference_history = window, temperature, reference_history
        self._first = window + 2 if reference_history else 2 * window
        history = torch.full((num_tasks, 2 * window), float(reference_history), dtype=torch.float64)
        self.register_buffer("loss_KW", history)  # both windows; 0 in a row without a value yet
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def observe(self, mean_K: torch.Tensor, count_K: torch.Tensor) -> None:
        last_K = self.loss_KW[:, -1]
        newest_K = newest_losses(mean_K, count_K, last_K, self.reference_history)
        moved_KW = torch.cat([self.loss_KW[:, 1:], newest_K[:, None]], dim=1)
        if not self.reference_history:  # the first loss of a task stands for all steps before it
            moved_KW = torch.where(last_K[:, None] > 0, moved_KW, newest_K[:, None])
        self.loss_KW.copy_(moved_KW)
        self.steps += 1
        older_K, newer_K = self.loss_KW.unflatten(1, (2, self.window)).mean(dim=2).unbind(1)
        weight_K = softmax_weights(ratio(newer_K, older_K) / self.temperature)
        self.weight_K.copy_(torch.where(self.steps >= self._first, weight_K, 1.0))


class ImprovableGapBalancing(ComputedWeighting):
    """IGB, also IGBv1 (arXiv 2307.15429): lambda = N * softmax(loss / base loss).

    The base loss of a task is its mean over steps W + 1 to 2 W; the weights are 1 until then. A task first seen
    later has its first loss for a base.

    Args:
        num_tasks: K.
        window: W, steps of the warm-up, and of the mean that follows it.
        reference_history: as in the paper's reference code an absent task enters as loss 0, and the weights move one
            observation after the base is complete.
    """

    def __init__(self, num_tasks: int, window: int = 100, reference_history: bool = False):
        super().__init__(num_tasks)
        check_constants(window=window)
        self.window, self.reference_history = window, reference_history
        for name in ("last_K", "base_sum_K", "base_steps_K"):
            self.register_buffer(name, torch.zeros(num_tasks, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def observe(self, mean_K: torch.Tensor, count_K: torch.Tensor) -> None:
        self.last_K.copy_(newest_losses(mean_K, count_K, self.last_K, self.reference_history))
        self.steps += 1
        in_window = (self.steps > self.window) & (self.steps <= 2 * self.window)
        is_late_K = (self.steps > 2 * self.window) & (self.base_steps_K == 0) & (self.last_K > 0)
        enters_K = is_late_K | (in_window & ((self.last_K > 0) | self.reference_history))
        self.base_sum_K += self.last_K * enters_K
        self.base_steps_K += enters_K
        weight_K = softmax_weights(ratio(self.last_K, self.base_sum_K / self.base_steps_K.clamp(min=1)))
        moves = self.steps >= 2 * self.window + self.reference_history
        self.weight_K.copy_(torch.where(moves, weight_K, 1.0))


class UncertaintyWeighting(ComputedWeighting):
    """UW (arXiv 1705.07115): lambda ~ exp(-s), s the learned log-variance of each task.

    s minimises sum_k exp(-s_k) L_k + s_k / 2 over the tasks present. Its gradient needs the mean losses L_k alone,
    1/2 - exp(-s_k) L_k, so Adam moves it here, the same on all ranks and whatever engine owns the model's optimizer.
    lambda is scaled to the sum N: a common factor cancels in Eq. 2.

    Args:
        num_tasks: K.
        lr: learning rate of s, > 0, constant.
    """

    def __init__(self, num_tasks: int, lr: float = 1e-3):
        super().__init__(num_tasks)
        check_constants(lr=lr)
        self.lr = lr
        for name in ("log_variance_K", "moment_K", "square_K", "updates_K"):
            self.register_buffer(name, torch.zeros(num_tasks, dtype=torch.float64))

    def observe(self, mean_K: torch.Tensor, count_K: torch.Tensor) -> None:
        is_seen = is_present(mean_K, count_K)
        seen_K = is_seen.double()  # 0 for an absent task: it has no gradient, and neither s nor its moments move
        gradient_K = 0.5 - torch.exp(-self.log_variance_K) * torch.where(is_seen, mean_K, 0.0)
        self.updates_K += seen_K
        self.moment_K.lerp_(gradient_K, 0.1 * seen_K)
        self.square_K.lerp_(gradient_K**2, 0.001 * seen_K)
        updates_K = self.updates_K.clamp(min=1)
        mean_gradient_K, mean_square_K = self.moment_K / (1 - 0.9**updates_K), self.square_K / (1 - 0.999**updates_K)
        step_K = mean_gradient_K / (mean_square_K.sqrt() + 1e-8)
        self.log_variance_K -= self.lr * step_K * seen_K
        self.log_variance_K.clamp_(-MOST_LOG_VARIANCE, MOST_LOG_VARIANCE)
        self.weight_K.copy_(softmax_weights(-self.log_variance_K))


def softmax_weights(score_K: torch.Tensor) -> torch.Tensor:
    """N * softmax, none below LEAST_WEIGHT."""
    return (len(score_K) * torch.softmax(score_K, dim=0)).clamp(min=LEAST_WEIGHT)


def is_present(mean_K: torch.Tensor, count_K: torch.Tensor) -> torch.Tensor:
    """Which tasks have a mean loss to learn from, bool [K]."""
    return (count_K > 0) & mean_K.isfinite()


def newest_losses(
    mean_K: torch.Tensor, count_K: torch.Tensor, last_K: torch.Tensor, absent_is_zero: bool
) -> torch.Tensor:
    """The mean losses; of an absent task its last value, or 0."""
    return torch.where(is_present(mean_K, count_K), mean_K, 0.0 if absent_is_zero else last_K)


def ratio(loss_K: torch.Tensor, base_K: torch.Tensor) -> torch.Tensor:
    """loss / base; 1 where the base is 0, that is, for a task not seen yet."""
    is_known_K = base_K > 0
    return torch.where(is_known_K, loss_K / torch.where(is_known_K, base_K, 1.0), 1.0)


def check_constants(window: int = 1, **positive: float) -> None:
    """Refuse a window below 1, or another constant that is not a finite number > 0.

    Raises:
        ValueError: names the flag.
    """
    if window < 1:
        raise ValueError(f"weight_window must be at least 1, got {window} (--weight_window). Raise it.")
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"weight_{name} must be a finite number > 0, got {value} (--weight_{name}). Fix the flag.")


STRATEGIES: dict[str, type[Weighter]] = {
    "EW": EqualWeighting,
    "EWTB": EqualWeightingTaskBalancing,
    "RLW": RandomLossWeighting,
    "DWA": DynamicWeightAverage,
    "IGB": ImprovableGapBalancing,
    "UW": UncertaintyWeighting,
}
OTHER_NAMES = {"equal": "EW", "TLA": "EWTB", "IGBv1": "IGB"}
