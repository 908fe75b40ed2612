"""The log of a run's tasks: one JSON line per logging step.

    {"step": 10, "epoch": 0.1, "loss": 2.1, "learning_rate": 1e-3, "elapsed_s": 12.3,
     "tasks": {"VQAv2": {"loss": 1.9, "weight": 0.8, "tokens": 812, "tokens_seen": 8044, "share": 0.21}, ...}}

Where samples are dealt by work, a line also has `padding_avoided`, the share of positions that would be padding had
they been dealt in order and padded, and `slowest_rank`, the work of the rank that had most over the mean (1 is even).

`loss` is null for a task without a supervised token since the last line; `weight` is its weight in the line's last
step; `tokens` are its supervised tokens since the last line, `tokens_seen` since the run began; `share` is its part of
the weighted loss.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from transformers_patch.dealing import StepBalance


class TaskLog:
    """Per-task sums since the last line, and the file the lines go to.

    Args:
        task_names: names in id order.
        path: the JSON Lines file; None keeps nothing on disk (all ranks but the first).
    """

    def __init__(self, task_names: Sequence[str], path: str | os.PathLike | None):
        self.task_names = list(task_names)
        self._path = None if path is None else Path(path)
        self._seen = dict.fromkeys(self.task_names, 0)
        self._clear()

    def _clear(self) -> None:
        self._loss_sum_K = torch.zeros(len(self.task_names), dtype=torch.float64)
        self._share_K = torch.zeros_like(self._loss_sum_K)
        self._count_K = torch.zeros_like(self._loss_sum_K)
        self._loss_sum, self._steps = 0.0, 0
        self._balances: list[StepBalance] = []

    def describe_losses(self, loss_sum_K: torch.Tensor) -> str:
        """The tasks whose loss is NaN or infinite, for messages; values behind the first K are ignored."""
        bad = [name for name, total in zip(self.task_names, loss_sum_K, strict=False) if not total.isfinite()]
        return f"tasks: {', '.join(bad)}" if bad else "the loss of each task is finite"

    def resume(self, step: int) -> float:
        """Remove lines of steps that will be repeated (a run resumes from an older checkpoint, or restarts).

        Returns:
            Seconds that the run had taken at the last line that stays; 0 without one.
        """
        if self._path is None or not self._path.exists():
            return 0.0
        kept = [line for line in self._path.read_text().splitlines() if _step_of(line) <= step]
        part = self._path.with_name(self._path.name + ".part")
        part.write_text("".join(line + "\n" for line in kept))
        os.replace(part, self._path)
        lines = [json.loads(line) for line in kept]
        self._seen = {name: sum(line["tasks"][name]["tokens"] for line in lines) for name in self.task_names}
        return float(lines[-1].get("elapsed_s", 0.0)) if lines else 0.0

    def add(
        self,
        loss: float,
        loss_sum_K: torch.Tensor,
        count_K: torch.Tensor,
        share_K: torch.Tensor,
        weight_K: torch.Tensor,
        balance: StepBalance | None = None,
    ) -> None:
        """Take in one optimizer step.

        Args:
            loss: the weighted loss.
            loss_sum_K, count_K: float [K], sum of token losses and number of tokens of each task.
            share_K: float64 [K], each task's part of `loss`.
            weight_K: float [K], the task weights the step was taken with; a line shows those of its last step.
            balance: how even the step was.
        """
        if balance is not None:
            self._balances.append(balance)
        self._loss_sum += loss
        self._steps += 1
        self._loss_sum_K += loss_sum_K
        self._share_K += share_K
        self._weight_K = weight_K.clone()
        self._count_K += count_K

    def write(self, step: int, epoch: float, learning_rate: float, elapsed_s: float) -> dict:
        """Append the line of the steps since the last one and return it; {} if there were none."""
        if not self._steps:
            return {}
        total = float(self._share_K.sum())
        tasks = {}
        for k, name in enumerate(self.task_names):
            tokens = int(self._count_K[k])
            self._seen[name] += tokens
            tasks[name] = {
                "loss": float(self._loss_sum_K[k]) / tokens if tokens else None,
                "weight": float(self._weight_K[k]),
                "tokens": tokens,
                "tokens_seen": self._seen[name],
                "share": float(self._share_K[k]) / total if total else 0.0,
            }
        line = {
            "step": step,
            "epoch": epoch,
            "loss": self._loss_sum / self._steps,
            "learning_rate": learning_rate,
            "elapsed_s": round(elapsed_s, 3),
            **self._evenness(),
            "tasks": tasks,
        }
        self._clear()
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(self._path, "a", encoding="utf-8") as stream:
                    stream.write(json.dumps(line) + "\n")
            except OSError as error:  # a full disk does not say of which file
                error.filename = error.filename or str(self._path)
                raise
        return line

    def _evenness(self) -> dict[str, float]:
        if not self._balances:
            return {}
        positions, padded, slowest, mean = (
            sum(getattr(balance, name) for balance in self._balances)
            for name in ("positions", "padded_positions", "slowest_work", "mean_work")
        )
        return {"padding_avoided": round(1 - positions / padded, 4), "slowest_rank": round(slowest / mean, 4)}


def tracker_values(line: dict[str, Any]) -> dict[str, float]:
    """A line of the log as named numbers for TensorBoard and the like: `task_loss/VQAv2`, `task_weight/VQAv2`, ...

    Rounded to four digits as transformers rounds `loss`; the file keeps all. A task without a supervised token since
    the last line has no loss.
    """
    values = {name: line[name] for name in ("padding_avoided", "slowest_rank") if name in line}
    for name, task in line.get("tasks", {}).items():
        if task["tokens"]:
            values[f"task_loss/{name}"] = round(task["loss"], 4)
        values[f"task_weight/{name}"] = round(task["weight"], 4)
        values[f"task_share/{name}"] = round(task["share"], 4)
        values[f"task_tokens/{name}"] = task["tokens_seen"]
    return values


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")  # a line torn by a kill
