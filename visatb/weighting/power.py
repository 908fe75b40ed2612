"""How many more validation records or runs would make the intervals of the weights half as wide, or exclude 1.

A first-order estimate: the variance of a weight is a sum over the tasks whose records were drawn, and each part falls
with the number of that task's records; over runs the standard error falls with the root of their number and Student's t
with its degrees of freedom.
"""

# N weighted units, J measured tasks, R_j records of task j, K runs

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visatb.layout import lay_out
from visatb.weighting.matrix import ScoreMatrix
from visatb.weighting.settings import CONFIDENCE
from visatb.weighting.uncertainty import Spread, Weigh, bootstrap, t_quantile
from visatb.weighting.weigh import Weighting

MOST = 200  # runs, or times today's records: more than anybody has
NO_PART = 1e-9  # of the variance: rounding
_ABOUT = {
    "records": "validation records of each task that would make the interval of the row's weight half as wide at the "
    "fewest records in total; `x` multiplies the records of all tasks alike until the interval excludes 1",
    "runs": "runs (seeds) until the interval of a weight is half as wide, and until it excludes 1",
}


@dataclass(frozen=True)
class Power:
    """What narrower intervals of the weights would take.

    Attributes:
        kind: "records" or "runs".
        units: the weighted tasks or groups.
        half_width: float64 [N], of the present intervals.
        now: present records of each measured task, or the present number of runs.
        to_halve: of each unit records by task [N, J] or one number of runs [N].
        to_exclude_one: [N]; a factor for the records of all tasks, or a number of runs. 1 or the present number where
            the interval excludes 1 already, infinity where the weight is 1.
        tasks: the measured tasks, for records.
    """

    kind: str
    units: tuple[str, ...]
    half_width: np.ndarray
    now: np.ndarray
    to_halve: np.ndarray
    to_exclude_one: np.ndarray
    tasks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The content of `power` in weights.json; infinity is null."""
        finite = [value if math.isfinite(value) else None for value in self.to_exclude_one.tolist()]
        return {
            "about": _ABOUT[self.kind],
            "kind": self.kind,
            "tasks": list(self.tasks or self.units),
            "half_width": self.half_width.tolist(),
            "now": self.now.tolist(),
            "to_halve": self.to_halve.tolist(),
            "to_exclude_one": finite,
        }


def power_of_records(
    matrix: ScoreMatrix,
    record_scores: Sequence[np.ndarray],
    weigh: Weigh,
    weighting: Weighting,
    spread: Spread,
    resamples: int,
    seed: int = 0,
    min_gain: float = 0.0,
) -> Power:
    """The validation records that narrower intervals of a bootstrap would take.

    Args:
        matrix, record_scores, weigh, resamples, seed, min_gain: of `bootstrap`.
        weighting: of the matrix.
        spread: of `bootstrap` over all tasks' records.
    """
    now_J = np.array([scores_MR.shape[1] for scores_MR in record_scores])
    variance_JN = np.array(
        [
            bootstrap(matrix, _varied(record_scores, j), weigh, resamples, seed=seed, min_gain=min_gain).error["weight"]
            for j in range(len(now_J))
        ]
    )
    variance_JN **= 2
    half_width = (spread.high["weight"] - spread.low["weight"]) / 2
    return Power(
        "records",
        weighting.tasks,
        half_width,
        now_J,
        np.array([fewest_records(variance_J, now_J, 0.25) for variance_J in variance_JN.T]),
        _factor_to_exclude_one(weighting.weight, half_width),
        matrix.tasks,
    )


def fewest_records(variance_J: np.ndarray, now_J: np.ndarray, share: float) -> np.ndarray:
    """The fewest records in total at which a variance falls to a share of today's; no task gets fewer than it has.

    The part of task j falls as now_j / records_j. The optimum is Neyman's allocation, records_j proportional to the
    root of variance_j now_j, but for the tasks that have more already.

    Args:
        variance_J: float64 [J], >= 0, the parts of the variance.
        now_J: int [J], today's records.
        share: in (0, 1).

    Returns:
        int64 [J].
    """
    part_J = variance_J / (variance_J.sum() or 1.0)
    root_J = np.sqrt(np.where(part_J > NO_PART, part_J, 0.0) * now_J)
    low, high = 0.0, float((now_J / share).max() / min(root_J[root_J > 0], default=1.0))
    for _ in range(200):
        middle = (low + high) / 2
        reached = (part_J * now_J / np.maximum(now_J, middle * root_J)).sum()
        low, high = (middle, high) if reached > share * part_J.sum() else (low, middle)
    return np.ceil(np.maximum(now_J, high * root_J) - 1e-6).astype(np.int64)


def power_of_runs(weighting: Weighting, spread: Spread, runs: int, confidence: float = CONFIDENCE) -> Power:
    """The runs that narrower intervals of `spread_of_runs` would take; at most MOST are tried, else infinity.

    Args:
        weighting: of the mean of all runs.
        spread: of the runs.
        runs: K >= 2.
        confidence: of the intervals.
    """
    half_width = (spread.high["weight"] - spread.low["weight"]) / 2
    distance = np.abs(weighting.weight - 1)
    ratio = np.divide(distance, half_width, out=np.full_like(distance, np.inf), where=half_width > 0)
    needed, *to_exclude = (_runs_within(runs, confidence, one) for one in (0.5, *ratio))
    needed = [needed] * len(half_width)
    return Power("runs", weighting.tasks, half_width, np.array([runs]), np.array(needed), np.array(to_exclude))


def format_power(power: Power) -> str:
    """The estimate as an aligned table with one line that explains it."""
    columns = power.tasks or ("to halve",)
    last = "to exclude 1"
    rows = [["", "half-width", *columns, last]]
    to_halve = power.to_halve.reshape(len(power.units), -1)
    for name, width, needed, one in zip(power.units, power.half_width, to_halve, power.to_exclude_one, strict=True):
        rows.append([name, f"{width:.3f}", *(f"{value:.0f}" for value in needed), _until(one, power.kind)])
    present = [f"{value:d}" for value in power.now]
    rows.append(["now", "", *present, ""])
    return f"Power: {_ABOUT[power.kind]}\n{lay_out(rows)}"


def _varied(record_scores: Sequence[np.ndarray], task: int) -> list[np.ndarray]:
    """The record scores with those of all other tasks at their means, which resampling does not change."""
    return [scores if j == task else scores.mean(axis=1, keepdims=True) for j, scores in enumerate(record_scores)]


def _factor_to_exclude_one(weight_N: np.ndarray, half_width_N: np.ndarray) -> np.ndarray:
    distance_N = np.abs(weight_N - 1)
    ratio_N = np.divide(half_width_N, distance_N, out=np.full_like(distance_N, np.inf), where=distance_N > 0)
    return np.where(half_width_N > 0, np.maximum(1.0, ratio_N**2), 1.0)


def _runs_within(runs: int, confidence: float, ratio: float) -> float:
    """The fewest runs whose interval is at most `ratio` times that of today's; infinity if MOST are too few."""

    def reach(k: int) -> float:
        return t_quantile(0.5 + confidence / 2, k - 1) / math.sqrt(k)

    bound = ratio * reach(runs)
    found = bisect_left(range(runs, MOST + 1), True, key=lambda k: reach(k) <= bound)
    return float(runs + found) if runs + found <= MOST else math.inf


def _until(value: float, kind: str) -> str:
    if not math.isfinite(value) or value > MOST:
        return f"> {MOST}" + (" x" if kind == "records" else "")
    return f"{value:.1f} x" if kind == "records" else f"{value:.0f}"
