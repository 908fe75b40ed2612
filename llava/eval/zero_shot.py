"""The former address of `eval.zero_shot.table`."""

from eval.zero_shot.definition import Place, ZeroShot
from eval.zero_shot.table import BENCHMARKS, ZERO_SHOT_TASKS

__all__ = ["BENCHMARKS", "Place", "ZERO_SHOT_TASKS", "ZeroShot"]
