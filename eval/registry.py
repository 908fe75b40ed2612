"""The metrics of a benchmark file. Each is one decorated function in a module of its own.

A new metric is a module `eval/<name>.py` with a function `score(answers)` under `@metric(...)`, and its name in
`visatb.benchmark.METRICS` (and in CORPUS_METRICS if its score is not the mean of its records' scores).
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from eval.scores import Scores
from visatb.weighting.comparable import Cell

JUDGE, REFERENCE_LISTS = "a judging model", "lists of references"

# Modules whose names the VisATB reference chose; any other metric is in the module of its own name.
_MODULES = {"cider": "caption", "cider_list": "caption_list", "exact_match": "qa", "iou": "grounding"}

Score = TypeVar("Score", bound=Callable[..., Scores])


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: in a benchmark file.
        written: in metric files.
        score: answers -> scores.
        range: least and greatest score.
        lower_is_better: the direction of improvement (delta of Eq. 9).
        title: in tables and reports; `written` with spaces for underscores if left out.
        deviation: expected standard deviation of the record scores as a share of their mean; None where they scatter at
            most as hits and misses within `range`.
        needs: what it cannot be computed without, JUDGE or REFERENCE_LISTS; None if answers suffice.
    """

    name: str
    written: str
    score: Callable[..., Scores]
    range: tuple[float, float] = (0.0, 1.0)
    lower_is_better: bool = False
    title: str = ""
    deviation: float | None = None
    needs: str | None = None


def metric(name: str, written: str, **properties) -> Callable[[Score], Score]:
    """Decorate the function that computes a metric: sets its `metric`; see `Metric` for the properties."""

    def decorate(score: Score) -> Score:
        score.metric = Metric(name, written, score, **{"title": written.replace("_", " ")} | properties)
        return score

    return decorate


@cache
def find_metric(name: str) -> Metric:
    """The metric of that name in `visatb.benchmark.METRICS`."""
    return importlib.import_module(f"eval.{_MODULES.get(name, name)}").score.metric


def all_metrics() -> list[Metric]:
    """The metrics that a benchmark file may name."""
    from visatb.benchmark import METRICS  # here, for it needs PyYAML

    return [find_metric(name) for name in METRICS]


def lower_is_better(cells: Sequence[Cell]) -> list[str]:
    """The columns of scores whose metric improves downwards."""
    written = {metric.written for metric in all_metrics() if metric.lower_is_better} if cells else ()
    return list(dict.fromkeys(cell.column for cell in cells if cell.measured.metric in written))
