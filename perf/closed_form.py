"""Eq. 2 of arXiv 2403.04343 written out for one batch, and the gradient of a trainer's first step."""

import copy
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
import torch.nn.functional as F
from transformers import TrainingArguments

from transformers_patch import Weighter


def flat_gradient(model: torch.nn.Module) -> torch.Tensor:
    """The gradients of all trained parameters as one vector; zeros for parameters without one."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trained])


def token_losses(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and task ids of the supervised tokens of a batch, from the model's full logits."""
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "task_ids")}
    label_BS, task_B = batch["labels"], batch["task_ids"]
    logits_BSV = model.train()(**inputs).logits.float()
    loss_BS = F.cross_entropy(logits_BSV[:, :-1].transpose(1, 2), label_BS[:, 1:], reduction="none", ignore_index=-100)
    supervised_BS = label_BS[:, 1:] != -100
    return loss_BS[supervised_BS], task_B[:, None].expand_as(supervised_BS)[supervised_BS]


def weighted_gradient(
    model: torch.nn.Module, batch: dict[str, Any], weigh: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """The gradient of `weigh(token_loss_T, task_T)` on one batch, computed on a copy of the model."""
    model = copy.deepcopy(model)
    weigh(*token_losses(model, batch)).backward()
    return flat_gradient(model)


def eq2(weights: Sequence[float]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """sum(weight * loss) / sum(weight) over the supervised tokens."""

    def weigh(loss_T: torch.Tensor, task_T: torch.Tensor) -> torch.Tensor:
        weight_T = torch.tensor(weights)[task_T]
        return (weight_T * loss_T).sum() / weight_T.sum()

    return weigh


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference divided by the norm of the expected gradient."""
    return float((found.cpu() - expected).norm() / expected.norm())


def first_gradient(
    trainer_class: type,
    model: torch.nn.Module,
    data: Any,
    collate: Callable,
    per_device: int,
    accumulation: int,
    weighter: Weighter | None = None,
    arguments: type = TrainingArguments,
    **more: Any,
) -> torch.Tensor:
    """The gradient that a trainer hands to its optimizer in its first step."""
    model = copy.deepcopy(model)
    found = {}

    class Recorder(torch.optim.SGD):
        def step(self, *args: Any, **kwargs: Any) -> None:
            found["gradient"] = flat_gradient(model)

    optimizer = Recorder([p for p in model.parameters() if p.requires_grad], lr=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    weighting = {} if weighter is None else {"weighter": weighter}
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "per_device_train_batch_size": per_device,
            "gradient_accumulation_steps": accumulation,
            "max_steps": 1,
            "remove_unused_columns": False,
            "report_to": [],
            "save_strategy": "no",
            "max_grad_norm": 0,
            "disable_tqdm": True,
            "use_cpu": True,
        }
        args = arguments(folder, **settings | more.pop("settings", {}))
        more |= {"train_dataset": data, "data_collator": collate, "optimizers": (optimizer, schedule)}
        with redirect_stdout(StringIO()):  # the summary that trainers print
            trainer_class(model, args, **weighting, **more).train()
    return found["gradient"]
