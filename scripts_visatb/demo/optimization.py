"""How the demo's base models are optimised: fast, because they have about a minute."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_


class QuickOptimizer:
    """Muon for the weight matrices inside the layers, AdamW for embeddings, heads, norms and biases.

    On these small models it needs about half the steps of AdamW alone. Warm-up, then a half cosine.

    Args:
        modules: what is trained.
        steps: number of steps.
        matrix_rate, other_rate: highest learning rates of the two.
    """

    def __init__(self, modules: Iterable[nn.Module], steps: int, matrix_rate: float, other_rate: float):
        named = [pair for module in modules for pair in module.named_parameters()]
        inner = [p for name, p in named if p.ndim == 2 and "layers." in name]
        known = {id(p) for p in inner}
        outer = [p for _, p in named if id(p) not in known]
        self._parameters = inner + outer
        self._optimizers = [torch.optim.AdamW(outer, lr=other_rate, betas=(0.9, 0.98), weight_decay=0.01)]
        if inner:
            matched = {"momentum": 0.95, "weight_decay": 0.01, "adjust_lr_fn": "match_rms_adamw"}
            self._optimizers.append(torch.optim.Muon(inner, lr=matrix_rate, **matched))
        factor = warmup_cosine(steps)
        self._schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in self._optimizers]

    def step(self, loss: torch.Tensor) -> None:
        """Go one step down the gradient of the loss."""
        loss.backward()
        clip_grad_norm_(self._parameters, 1.0)
        for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


def warmup_cosine(steps: int, warmup: float = 0.05):
    """Factor of the learning rate by step: linear warm-up, then a half cosine down to 5 %."""
    rise = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.05 + 0.95 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2

    return factor
