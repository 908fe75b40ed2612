"""Contributions, difficulties and weights of tasks (Eq. 3-8 and 10-12 of arXiv 2403.04343)."""

# N units that are weighted: tasks, or groups of tasks; J measured tasks (J = N without groups)

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from visatb.errors import InputError, shown
from visatb.weighting.matrix import ScoreMatrix
from visatb.weighting.settings import (
    AUTO_RANGE,
    AUTO_TEMPERATURES,
    DEFAULT_ALPHA,
    DEFAULT_TEMPERATURE,
    MIN_GAIN,
    ON_FAILED,
)

if TYPE_CHECKING:  # a benchmark file needs further packages
    from visatb.benchmark import Benchmark


@dataclass(frozen=True)
class Weighting:
    """Contributions, difficulties and weights of N units; the order of `tasks` holds for all.

    Attributes:
        tasks: names of the units.
        temperature, alpha: T and (a_out, a_in, a_D) that the weights were made with.
        contributions: float64 [N, N], C[i -> j] in row i (Eq. 3, 10).
        contribution_out, contribution_in, difficulty: float64 [N] (Eq. 4-6, 11, 12).
        weight_out, weight_in, weight_difficulty: float64 [N], each averages 1 (Eq. 4, 5, 7).
        weight: float64 [N], lambda (Eq. 8).
    """

    tasks: tuple[str, ...]
    temperature: float
    alpha: tuple[float, float, float]
    contributions: np.ndarray
    contribution_out: np.ndarray
    contribution_in: np.ndarray
    difficulty: np.ndarray
    weight_out: np.ndarray
    weight_in: np.ndarray
    weight_difficulty: np.ndarray
    weight: np.ndarray

    @property
    def weight_difference(self) -> np.ndarray:
        """lambda_i - lambda_j, float64 [N, N]."""
        return self.weight[:, None] - self.weight


def contributions(mini_J: np.ndarray, score_NJ: np.ndarray, unit_J: np.ndarray | None = None) -> np.ndarray:
    """How much the data of i gives j, as a share of what j's own data gives it (Eq. 3; Eq. 10 with the base as mini).

    Args:
        mini_J: [J], V_j(mini).
        score_NJ: [N, J], V_j(i+mini).
        unit_J: int [J], group of each task; None if every task stands for itself (J = N).

    Returns:
        float64 [N, N], C[i -> j] in row i; 1 on the diagonal. With groups the mean over the tasks of j.

    Raises:
        ValueError: if a task's own data did not raise its score, so that the share means nothing.
    """
    unit_J = np.arange(len(mini_J)) if unit_J is None else unit_J
    gain_NJ = np.asarray(score_NJ, dtype=np.float64) - np.asarray(mini_J, dtype=np.float64)
    own_J = gain_NJ[unit_J, np.arange(len(mini_J))]
    if not (own_J > 0).all():
        raise ValueError("the own data of every task must raise its score (V_j(j+mini) > V_j(mini))")
    return _mean_by_unit(gain_NJ / own_J, unit_J, len(gain_NJ))


def contribution_out(C_NN: np.ndarray) -> np.ndarray:
    """What each task gives the others: mean of C[i -> j] over j != i (Eq. 4). float64 [N, N] -> [N], N >= 2."""
    return (C_NN.sum(axis=1) - np.diagonal(C_NN)) / (len(C_NN) - 1)


def contribution_in(C_NN: np.ndarray) -> np.ndarray:
    """What each task receives from the others: mean of C[j -> i] over j != i (Eq. 5). float64 [N, N] -> [N], N >= 2."""
    return contribution_out(C_NN.T)


def difficulty(mini_J: np.ndarray, own_J: np.ndarray) -> np.ndarray:
    """How much of a task's score the small share of data leaves open: 1 - V(mini) / V(own) (Eq. 6).

    Eq. 12 and 11, the "precise" difficulty, are the same with V_i(mini_i) and V_i(i) of single-task models.

    Args:
        mini_J, own_J: [J], scores after little and after much data; own_J > 0.

    Returns:
        float64 [J], at most 1.
    """
    return 1.0 - np.asarray(mini_J, dtype=np.float64) / np.asarray(own_J, dtype=np.float64)


def softmax_weights(value_N: np.ndarray, temperature: float) -> np.ndarray:
    """N * softmax(value / T), T > 0: weights that average 1 (Eq. 4, 5, 7). float64 [N] -> [N]."""
    value_N = np.asarray(value_N, dtype=np.float64)
    # The maximum comes off before the division, so that no temperature can make inf - inf.
    with np.errstate(over="ignore", under="ignore"):
        share_N = np.exp((value_N - value_N.max()) / temperature)
    return len(value_N) * share_N / share_N.sum()


def task_weights(
    out_N: np.ndarray, in_N: np.ndarray, difficulty_N: np.ndarray, temperature: float, alpha: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The weights by outgoing and incoming contribution and by difficulty, and their combination (Eq. 4-8).

    Args:
        out_N, in_N, difficulty_N: float [N], C_out, C_in and D.
        temperature: T > 0.
        alpha: (a_out, a_in, a_D), which sum to 1.

    Returns:
        lambda_out, lambda_in, lambda_D, lambda: float64 [N] each.

    Raises:
        ValueError: if alpha has another length.
    """
    parts = (
        softmax_weights(out_N, temperature),
        softmax_weights(-np.asarray(in_N, dtype=np.float64), temperature),
        softmax_weights(difficulty_N, temperature),
    )
    return *parts, sum(share * part for share, part in zip(alpha, parts, strict=True))


def weigh(
    matrix: ScoreMatrix,
    temperature: float | None = DEFAULT_TEMPERATURE,
    alpha: Sequence[float] = DEFAULT_ALPHA,
    on_failed: str = ON_FAILED[0],
    min_gain: float = MIN_GAIN,
) -> Weighting:
    """Contributions, difficulties and weights of a score matrix (Eq. 3-8; its form may be that of Eq. 10-12).

    Args:
        matrix: scores of the N+1 models.
        temperature: T; None takes that of `auto_temperature`.
        alpha: (a_out, a_in, a_D) of Eq. 8.
        on_failed: what to do with a task whose own data raised its score by no more than `min_gain`:
            "fail"; "exclude" drops it from N; "clip" divides by the smallest gain that is trusted instead, and keeps
            its contributions in [-1, 1] and its difficulty >= 0.
        min_gain: smallest gain that is trusted, as a share of V_j(j+mini).

    Raises:
        InputError: if a measurement failed, a setting is out of range, or the numbers leave the range of float64.
    """
    _check_settings(temperature, alpha, on_failed, min_gain)
    failed_J = matrix.failed(min_gain)
    if failed_J.any() and on_failed == "fail":
        raise InputError(_failure(matrix, min_gain))
    if on_failed == "exclude":
        matrix = matrix.without(failed_J)
    C_NN, D_N = _measured(matrix, failed_J if on_failed == "clip" else None, min_gain)
    if not (np.isfinite(C_NN).all() and np.isfinite(D_N).all()):
        raise InputError(f"{matrix.source}: the scores differ too much in size to be divided. Check them.")
    out_N, in_N = contribution_out(C_NN), contribution_in(C_NN)
    if temperature is None:
        temperature = auto_temperature(out_N, in_N, D_N, alpha)
    parts = task_weights(out_N, in_N, D_N, temperature, alpha)
    if not (parts[-1] > 0).all():
        task = matrix.units[int(np.argmin(parts[-1]))]
        raise InputError(f"{matrix.source}: temperature {temperature} leaves {task} no weight. Raise --temperature.")
    return Weighting(matrix.units, float(temperature), tuple(map(float, alpha)), C_NN, out_N, in_N, D_N, *parts)


def auto_temperature(out_N: np.ndarray, in_N: np.ndarray, difficulty_N: np.ndarray, alpha: Sequence[float]) -> float:
    """The lowest of AUTO_TEMPERATURES (0.05, 0.10, ... 10.0) that keeps all weights in [0.5, 2], as the paper advises.

    Args:
        out_N, in_N, difficulty_N, alpha: see `task_weights`.

    Raises:
        InputError: if none does.
    """
    lowest, highest = AUTO_RANGE
    for temperature in AUTO_TEMPERATURES:
        weight_N = task_weights(out_N, in_N, difficulty_N, temperature, alpha)[-1]
        if weight_N.min() >= lowest and weight_N.max() <= highest:
            return temperature
    raise InputError(
        f"no temperature up to {AUTO_TEMPERATURES[-1]} keeps all weights in [{lowest}, {highest}]. Set --temperature."
    )


def weights_by_task(
    weighting: Weighting, matrix: ScoreMatrix, benchmark: "Benchmark | None" = None
) -> dict[str, float]:
    """The weight of every task, in id order if there is a benchmark.

    A fixed-weight task has its fixed weight, a task of a group that of its group, an excluded task 1.0.
    """
    by_unit = dict(zip(weighting.tasks, map(float, weighting.weight), strict=True))
    measured = {
        task: by_unit.get(matrix.units[unit], 1.0) for task, unit in zip(matrix.tasks, matrix.unit_J, strict=True)
    }
    if benchmark is None:
        return measured
    return {task.name: measured[task.name] if task.measured else float(task.weight) for task in benchmark.tasks}


def _check_settings(temperature: float | None, alpha: Sequence[float], on_failed: str, min_gain: float) -> None:
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature must be a finite number > 0, got {temperature}. Fix it.")
    if not all(math.isfinite(a) and a >= 0 for a in alpha) or len(alpha) != 3:
        raise InputError(f"alpha must be three numbers >= 0 (out, in, difficulty), got {list(alpha)}. Fix it.")
    if not math.isclose(sum(alpha), 1.0, abs_tol=1e-9):
        raise InputError(f"alpha must sum to 1 (Eq. 8), got {sum(alpha)}. Fix it.")
    if on_failed not in ON_FAILED:
        raise InputError(f"on_failed must be one of {', '.join(ON_FAILED)}, got {shown(on_failed)}. Fix it.")
    if not 0 <= min_gain < 1:
        raise InputError(f"min_gain must be in [0, 1), got {min_gain}. It is a share of the task's score.")


def _failure(matrix: ScoreMatrix, min_gain: float) -> str:
    failed = matrix.failed_tasks(min_gain)
    units = ", ".join(dict.fromkeys(task.unit for task in failed))
    return (
        f"{matrix.source}: the measurement of {len(failed)} task(s) failed: {'; '.join(map(str, failed))}; the "
        f"gain must exceed {min_gain:g} of the score. Train {units} on more data, or pass --on-failed exclude or clip "
        "(on_failed of a benchmark file)."
    )


def _measured(matrix: ScoreMatrix, clipped_J: np.ndarray | None, min_gain: float) -> tuple[np.ndarray, np.ndarray]:
    """C [N, N] and D [N] of a matrix; `clipped_J` marks the failed tasks that are to be clipped."""
    units, own_J = len(matrix.units), matrix.own_scores()
    with np.errstate(all="ignore"):
        if clipped_J is None or not clipped_J.any():
            C_NN = contributions(matrix.mini_J, matrix.score_NJ, matrix.unit_J)
            return C_NN, _mean_by_unit(difficulty(*matrix.difficulty_scores()), matrix.unit_J, units)
        for task in np.flatnonzero(clipped_J & (own_J <= 0)):
            name = matrix.tasks[task]
            raise InputError(f"{matrix.source}: task {name} scores 0 with its own data. Pass --on-failed exclude.")
        floor_J = max(min_gain, np.finfo(np.float64).eps) * own_J
        gain_J = np.where(clipped_J, floor_J, own_J - matrix.mini_J)
        ratio_NJ = (matrix.score_NJ - matrix.mini_J) / gain_J
        ratio_NJ = np.where(clipped_J, np.clip(ratio_NJ, -1.0, 1.0), ratio_NJ)
        D_J = difficulty(*matrix.difficulty_scores())
        D_J = np.where(clipped_J, np.maximum(D_J, 0.0), D_J)
    return _mean_by_unit(ratio_NJ, matrix.unit_J, units), _mean_by_unit(D_J, matrix.unit_J, units)


def _mean_by_unit(value: np.ndarray, unit_J: np.ndarray, units: int) -> np.ndarray:
    """The mean over the tasks of each unit, along the last axis: [..., J] -> [..., N]."""
    return np.stack([value[..., unit_J == unit].mean(axis=-1) for unit in range(units)], axis=-1)
