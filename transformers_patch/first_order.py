"""Inter-task contributions to first order: from gradients at one model instead of a training per task.

A step of Adam on task i changes the parameters by -lr M g_i, for the mean gradient g_i of its supervised tokens and
the preconditioner M = 1 / (sqrt(v) + c). To first order this changes task j's validation loss by -lr <h_j, M g_i>,
for the mean gradient h_j of that loss. As a share of what j's own data gives it,

    C1[i -> j] = <h_j, M g_i> / <h_j, M g_j>        (compare Eq. 3 of arXiv 2403.04343, with losses for scores)

Gradients are compared as random sketches, as in LESS (arXiv 2402.04333) and Grad-TAG (arXiv 2409.06091), but by a
count sketch: each coordinate is added with a random sign to one of D buckets. That keeps inner products up to a
standard error of about |a| |b| / sqrt(D), takes one pass, and needs no more memory than the gradient itself and v.
"""

# K tasks, D buckets of a sketch, P parameters' elements

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

BUCKETS = 2**18
DAMPING = 0.01
_CHUNK = 2**22  # coordinates that are sketched at once

LossOf = Callable[[Any], tuple[torch.Tensor, int]]


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
    validation_KD: torch.Tensor, training_KD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """C1 of all pairs of tasks, and the gains they are shares of.

    Args:
        validation_KD: float64 [K, D], sketches of sqrt(M) h_j.
        training_KD: float64 [K, D], sketches of sqrt(M) g_i.

    Returns:
        C1 [K, K], from the row's task to the column's, 1 on the diagonal; and <h_j, M g_j> [K].

    Raises:
        ValueError: a task whose own data does not lower its validation loss, to first order.
    """
    gain_KK = training_KD @ validation_KD.T
    own_K = gain_KK.diagonal().clone()
    if not (own_K > 0).all():
        failed = ", ".join(str(k) for k in torch.nonzero(~(own_K > 0)).flatten().tolist())
        raise ValueError(f"the own data of task {failed} does not lower its validation loss to first order")
    return gain_KK / own_K, own_K
