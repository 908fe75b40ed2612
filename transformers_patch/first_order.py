"""Inter-task contributions to first order: from gradients at one model instead of a training per task.

A step of Adam on task i changes the parameters by -lr M g_i, for the mean gradient g_i of its supervised tokens and
the preconditioner M = 1 / (sqrt(v) + c). To first order this changes task j's validation loss by -lr <h_j, M g_i>,
for the mean gradient h_j of that loss. As a share of what j's own data gives it,

    C1[i -> j] = <h_j, M g_i> / <h_j, M g_j>        (compare Eq. 3 of arXiv 2403.04343, with losses for scores)

Gradients are compared as random sketches, as in LESS (arXiv 2402.04333) and Grad-TAG (arXiv 2409.06091), but by a
count sketch: each coordinate is added with a random sign to one of D buckets. That keeps inner products up to a
standard error of about |a| |b| / sqrt(D), takes one pass, and needs no more memory than the gradient itself and v.
"""

# N units, J tasks, D buckets of a sketch, P coordinates of all parameters

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

BUCKETS = 2**18
DAMPING = 0.01
_CHUNK = 2**22  # coordinates that are sketched at once

LossOf = Callable[[Any], tuple[torch.Tensor, int]]


class FirstOrderError(ValueError):
    """The own data of some tasks does not lower their validation loss to first order.

    Args:
        tasks: their positions.
    """

    def __init__(self, tasks: list[int]):
        super().__init__(f"the own data of task {tasks[0]} does not lower its validation loss to first order")
        self.tasks = tasks


def mean_gradient(parameters: Sequence[nn.Parameter], batches: Iterable[Any], loss_of: LossOf) -> int:
    """Leave the mean gradient of all supervised tokens in `.grad`.

    Args:
        parameters: that the loss depends on; their `.grad` is replaced.
        batches: of one task.
        loss_of: batch -> the sum of its tokens' losses, and their number.

    Returns:
        the number of tokens.

    Raises:
        ValueError: no supervised token, or a gradient that is not finite.
    """
    for parameter in parameters:
        parameter.grad = None
    tokens = 0
    for batch in batches:
        loss, count = loss_of(batch)
        if count:
            loss.backward()
            tokens += count
    if not tokens:
        raise ValueError("no supervised token")
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad.div_(tokens)
        if not parameter.grad.isfinite().all():
            raise ValueError("the gradient is not finite")
    return tokens


class SecondMoment:
    """Adam's v of a model: the mean square of the gradients of optimizer steps.

    Args:
        parameters: of the model.
        damping: share of a tensor's root mean v that is added to sqrt(v) in place of Adam's 1e-8: a coordinate that
            no step has moved would outweigh all others, where Adam's own v bounds its first step.

    Attributes:
        steps: gradients that were added.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], damping: float = DAMPING):
        self.damping = damping
        self.steps = 0
        self._squares = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]

    def add(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add the gradient of a step, which is in `.grad`."""
        for square, parameter in zip(self._squares, parameters, strict=True):
            square.addcmul_(parameter.grad.float(), parameter.grad.float())
        self.steps += 1

    def preconditioner(self, index: int) -> torch.Tensor:
        """M of parameter number `index`, float32 of its shape."""
        v = self._squares[index] / self.steps
        floor = self.damping * v.mean().sqrt()
        return 1.0 / (v.sqrt() + torch.where(floor > 0, floor, 1.0))


class Sketch:
    """Count sketches of gradients, all with the same buckets and signs.

    Args:
        buckets: D; 0 keeps every coordinate (exact, for small models and tests).
        seed: of buckets and signs.
    """

    def __init__(self, buckets: int = BUCKETS, seed: int = 0):
        self.buckets = buckets
        self.seed = seed

    def of(self, parameters: Sequence[nn.Parameter], moment: SecondMoment) -> torch.Tensor:
        """The sketch of sqrt(M) times the gradients in `.grad`: float64 [D], or [P] without buckets."""
        scaled = (p.grad.float() * moment.preconditioner(n).sqrt() for n, p in enumerate(parameters))
        if not self.buckets:
            return torch.cat([value.flatten().double().cpu() for value in scaled])
        sketch_D = torch.zeros(self.buckets, dtype=torch.float64)
        for n, value in enumerate(scaled):
            draw = torch.Generator().manual_seed(self.seed * 1_000_003 + n)
            for chunk in value.flatten().split(_CHUNK):
                bucket = torch.randint(2 * self.buckets, chunk.shape, generator=draw)
                signed = chunk.double().cpu() * (1 - 2 * (bucket % 2))
                sketch_D.index_add_(0, bucket // 2, signed)
        return sketch_D


def first_order_contributions(
    validation_JD: torch.Tensor, training_ND: torch.Tensor, unit_J: Sequence[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """C1 of every unit (a task, or a group of tasks) to every task, and the gains they are shares of.

    Args:
        validation_JD: float64 [J, D], sketches of sqrt(M) h_j.
        training_ND: float64 [N, D], sketches of sqrt(M) g_i.
        unit_J: the unit of each task; None if every task stands for itself (J = N).

    Returns:
        C1 [N, J], 1 where the unit is the task's own; and <h_j, M g_unit(j)> [J].

    Raises:
        ValueError: tasks whose own data does not lower their validation loss, to first order.
    """
    gain_NJ = training_ND @ validation_JD.T
    own_J = gain_NJ[list(range(len(validation_JD)) if unit_J is None else unit_J), range(len(validation_JD))]
    failed = torch.nonzero(~(own_J > 0)).flatten().tolist()
    if failed:
        raise FirstOrderError(failed)
    return gain_NJ / own_J, own_J
