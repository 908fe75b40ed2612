"""Optimizer, schedule and precision of the demo's base models."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_cosine_schedule_with_warmup


def make_optimizer(
    parameters: Iterable[nn.Parameter], learning_rate: float, steps: int
) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """AdamW with a warmup over a twentieth of the steps and cosine decay."""
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    return optimizer, get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)


def take_step(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: LRScheduler) -> None:
    """One optimizer step, with gradients clipped at norm 1."""
    loss.backward()
    clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()


@contextmanager
def double_precision() -> Iterator[None]:
    """Make float64 the default dtype in the body.

    Processors round differently, and training multiplies the difference: after 900 steps in float32 the language models
    of two processors have little in common, in float64 their weights agree to about float32's precision.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
