"""What a run tells about its tasks: one JSON line per logging step.

    {"step": 10, "epoch": 0.1, "loss": 2.1, "learning_rate": 1e-3, "elapsed_s": 12.3,
     "tasks": {"VQAv2": {"loss": 1.9, "weight": 0.8, "tokens": 812, "share": 0.21}, ...}}

`loss` is null for a task without a supervised token since the last line; `share` is its part of the weighted loss.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch


class TaskLog:
    """Per-task sums since the last line, and the file the lines go to.

    Args:
        task_names: names in id order.
        path: the JSON Lines file; None keeps nothing on disk (all ranks but the first).
    """

    def __init__(self, task_names: Sequence[str], path: str | os.PathLike | None):
        self.task_names = list(task_names)
        self._path = None if path is None else Path(path)
        self._clear()

    def _clear(self) -> None:
        self._loss_sum_K = torch.zeros(len(self.task_names), dtype=torch.float64)
        self._weighted_sum_K = torch.zeros_like(self._loss_sum_K)
        self._count_K = torch.zeros_like(self._loss_sum_K)
        self._loss_sum, self._steps = 0.0, 0

    def resume(self, step: int) -> float:
        """Forget lines of steps that will be taken again (a run goes on from an older checkpoint, or starts anew).

        Returns:
            Seconds that the run had taken at the last line that stays; 0 without one.
        """
        if self._path is None or not self._path.exists():
            return 0.0
        kept = [line for line in self._path.read_text().splitlines() if _step_of(line) <= step]
        part = self._path.with_name(self._path.name + ".part")
        part.write_text("".join(line + "\n" for line in kept))
        os.replace(part, self._path)
        return float(json.loads(kept[-1]).get("elapsed_s", 0.0)) if kept else 0.0

    def add(self, loss: float, loss_sum_K: torch.Tensor, count_K: torch.Tensor, weight_K: torch.Tensor) -> None:
        """Take in one optimizer step: its loss, and per task the sum of token losses, tokens, and the weight."""
        self._loss_sum += loss
        self._steps += 1
        self._loss_sum_K += loss_sum_K
        self._weighted_sum_K += weight_K.double() * loss_sum_K
        self._count_K += count_K

    def write(self, step: int, epoch: float, learning_rate: float, elapsed_s: float, weight_K: torch.Tensor) -> dict:
        """Append the line of the steps since the last one and return it; {} if there were none."""
        if not self._steps:
            return {}
        total = float(self._weighted_sum_K.sum())
        tasks = {}
        for k, name in enumerate(self.task_names):
            tokens = int(self._count_K[k])
            tasks[name] = {
                "loss": float(self._loss_sum_K[k]) / tokens if tokens else None,
                "weight": float(weight_K[k]),
                "tokens": tokens,
                "share": float(self._weighted_sum_K[k]) / total if total else 0.0,
            }
        line = {
            "step": step,
            "epoch": epoch,
            "loss": self._loss_sum / self._steps,
            "learning_rate": learning_rate,
            "elapsed_s": round(elapsed_s, 3),
            "tasks": tasks,
        }
        self._clear()
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        return line


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")  # a line torn by a kill
