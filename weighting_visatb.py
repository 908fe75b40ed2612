"""Task weights from a matrix of validation scores: contributions, difficulties, weights (arXiv 2403.04343, Eq. 3-8).

The matrix holds the scores of N+1 models on N tasks: one model trained on a small share of every task (`mini`), and
for every task one trained on much of that task and the small shares of all others (`<task>`, also written
`<task>+mini` or `<task>-plus-mini`). It is given as

    CSV      model,VQAv2,ChartQA      one row per model in any order; higher scores are better
             mini,61.2,10.1
             VQAv2,70.3,11.0
             ChartQA,62.0,17.4
    JSON     {"mini": {"VQAv2": 61.2, "ChartQA": 10.1}, "VQAv2": {...}, "ChartQA": {...}}
    folder   <folder>/<model>/<task>.json, metric files as eval/*.py writes them with --output

--form simpler, for tasks of free output format, compares single-task models with the base model (Eq. 10, 11): the rows
are `base` and one per task, and --single-scores holds V_i(mini_i). --form precise takes the contributions from the N+1
models and the difficulty from single-task models (Eq. 12). --single-scores is a table of the same kinds with the rows
`mini`, V_i(mini_i), and `full`, V_i(i): each column from a model of its own.

Several --scores are runs of one measurement, such as seeds: their mean is weighed, and every weight gets an interval of
t(k-1) standard errors. --bootstrap gives it one from resampled validation records.

Tasks of a benchmark may form groups; then there is one model per group, a group's contribution and difficulty are the
means over its tasks, and all its tasks get its weight. (The paper balances "each group as a whole" without a formula;
this is our reading.) A task with a fixed weight takes no part and appears in the weights at its id.
"""

# N units that are weighted: tasks, or groups of tasks; J measured tasks (J = N without groups)

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.comparable import ALLOW
from eval.score_matrix import ScoreMatrix, mean_matrix, read_matrices, runs_that_failed
from eval.uncertainty import Spread, bootstrap, read_record_scores, spread_of_runs
from eval.weighting_report import format_report, to_json
from visatb.benchmark import FORMS, ON_FAILED, STANDARD, Benchmark, load_benchmark
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import refuse_unwritable, write_json

DEFAULT_TEMPERATURE = 0.5
DEFAULT_ALPHA = (0.25, 0.25, 0.5)
AUTO_TEMPERATURES = tuple(round(0.05 * n, 2) for n in range(1, 201))
AUTO_RANGE = (0.5, 2.0)
MIN_GAIN = 1e-3  # smaller gains are noise: one answer of a validation set of 1,000 moves a score by as much
EXAMPLE = "python weighting_visatb.py --scores scores.csv --output weights.json"


@dataclass(frozen=True)
class Weighting:
    """Contributions, difficulties and weights of N units; the order of `tasks` holds for all.

    Attributes:
        tasks: names of the units.
        contributions: float64 [N, N], C[i -> j] in row i (Eq. 3).
        contribution_out, contribution_in, difficulty: float64 [N] (Eq. 4-6).
        weight_out, weight_in, weight_difficulty: float64 [N], each averages 1.
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
    """What each task gives the others: mean of C[i -> j] over j != i (Eq. 4). float64 [N, N] -> [N]."""
    return (C_NN.sum(axis=1) - np.diagonal(C_NN)) / (len(C_NN) - 1)


def contribution_in(C_NN: np.ndarray) -> np.ndarray:
    """What each task receives from the others: mean of C[j -> i] over j != i (Eq. 5). float64 [N, N] -> [N]."""
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
    """N * softmax(value / T): weights that average 1. float64 [N] -> [N]."""
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
    on_failed: str = "fail",
    min_gain: float = MIN_GAIN,
) -> Weighting:
    """Contributions, difficulties and weights of a score matrix.

    Args:
        matrix: scores of the N+1 models.
        temperature: T; None takes the first of AUTO_TEMPERATURES that keeps every weight in AUTO_RANGE.
        alpha: (a_out, a_in, a_D) of Eq. 8.
        on_failed: what to do with a task whose own data raised its score by no more than `min_gain`:
            "fail"; "exclude" drops it from N; "clip" divides by the smallest gain that is trusted instead, and keeps
            its contributions in [-1, 1] and its difficulty >= 0.
        min_gain: smallest gain that is trusted, as a share of V_j(j+mini).

    Raises:
        InputError: if a measurement failed, a setting is out of range, or the numbers leave the range of float64.
    """
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature must be a finite number > 0, got {temperature}. Fix it.")
    if not all(math.isfinite(a) and a >= 0 for a in alpha) or len(alpha) != 3:
        raise InputError(f"alpha must be three numbers >= 0 (out, in, difficulty), got {list(alpha)}. Fix it.")
    if not math.isclose(sum(alpha), 1.0, abs_tol=1e-9):
        raise InputError(f"alpha must sum to 1 (Eq. 8), got {sum(alpha)}. Fix it.")
    if not 0 <= min_gain < 1:
        raise InputError(f"min_gain must be in [0, 1), got {min_gain}. It is a share of the task's score.")
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


def weights_by_task(weighting: Weighting, matrix: ScoreMatrix, benchmark: Benchmark | None = None) -> dict[str, float]:
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


def main() -> int:
    """The command. Prints the table, or with --print-weights the weights alone."""
    options = _parser().parse_args()
    if options.scores is None:
        raise InputError(f"--scores must name the score matrix (CSV, JSON or folder). For example: {EXAMPLE}")
    inputs = [*options.scores, *(options.single_scores or ()), options.benchmark]
    refuse_unwritable([options.output, options.plot], inputs)
    benchmark = None if options.benchmark is None else load_benchmark(options.benchmark)
    options.form = options.form or (benchmark.form if benchmark else STANDARD)
    options.on_failed = options.on_failed or (benchmark.on_failed if benchmark else ON_FAILED[0])
    tables = (options.scores, options.single_scores, options.form)
    matrices, notes = read_matrices(*tables, benchmark, options.allow_different_records)
    notes += runs_that_failed(matrices, options.min_gain)
    matrix = mean_matrix(matrices)
    alpha = options.alpha or (benchmark.alpha if benchmark else DEFAULT_ALPHA)
    temperature = _temperature(options.temperature, benchmark)
    weighting = weigh(matrix, temperature, alpha, options.on_failed, options.min_gain)
    spread = _spread(matrices, weighting, options)
    weights = weights_by_task(weighting, matrix, benchmark)
    failed_tasks = matrix.failed_tasks(options.min_gain)
    failed = [task.to_json(options.on_failed, weighting.tasks) for task in failed_tasks]
    for note in [*notes, *(entry["about"] for entry in failed)]:
        print(f"note: {note}", file=sys.stderr)
    if options.plot is not None:
        from eval.weighting_figure import draw

        draw(weighting, options.plot, spread)
    if options.output is not None:
        write_json(options.output, to_json(weighting, weights, options.form, spread, failed, notes))
    report = format_report(weighting, weights, spread, failed)
    print(report, file=sys.stderr if options.print_weights else sys.stdout)
    if options.print_weights:
        print(*map(repr, weights.values()))
    return 0


def _spread(matrices: list[ScoreMatrix], weighting: Weighting, options: Any) -> Spread | None:
    """How sure the weighting is, as the flags ask; at its temperature, so that only the measurement varies."""

    # What is left out of the whole measurement is left out of each part: chance may make it pass there.
    left_out_J = mean_matrix(matrices).failed(options.min_gain) & (options.on_failed == "exclude")

    def weigh_part(matrix: ScoreMatrix) -> Weighting:
        # A part in which a task fails stays: to drop it would keep the lucky ones.
        return weigh(matrix.without(left_out_J), weighting.temperature, weighting.alpha, "clip", options.min_gain)

    if not 0 < options.confidence < 1:
        raise InputError(f"--confidence must be in (0, 1), got {options.confidence}. Change it.")
    if options.bootstrap is None:
        if len(matrices) == 1:
            return None
        failed = sum(bool(matrix.failed(options.min_gain).any()) for matrix in matrices)
        return spread_of_runs(matrices, weigh_part, weighting, options.confidence, failed)
    if options.bootstrap < 2 or options.bootstrap_seed < 0:
        raise InputError("--bootstrap needs at least 2 resamples and --bootstrap-seed >= 0. Change them.")
    if len(matrices) > 1:
        raise InputError("--bootstrap needs one --scores. Leave the others out.")
    if options.per_record is None:
        raise InputError("--bootstrap needs --per-record, the folder of <model>/<task>.per_record.jsonl. Name it.")
    scores = read_record_scores(options.per_record, matrices[0])
    draws = (options.bootstrap, options.confidence, options.bootstrap_seed, options.min_gain)
    return bootstrap(matrices[0], scores, weigh_part, weighting, *draws)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__, epilog=f"example:\n  {EXAMPLE}")
    parser.add_argument("--scores", nargs="+", help="score matrix: CSV, JSON or folder (required); several are runs")
    parser.add_argument(
        "--form",
        choices=FORMS,
        help="standard: Eq. 3-8; simpler: Eq. 10, 11; precise: Eq. 12 (not given: the benchmark's, else standard)",
    )
    parser.add_argument(
        "--single-scores",
        nargs="+",
        help="scores of single-task models, for --form simpler and precise; one table, or one for each of --scores",
    )
    parser.add_argument("--benchmark", help="benchmark YAML: task ids, groups, fixed weights, temperature, alpha")
    parser.add_argument(
        "--temperature",
        help="T of Eq. 4-7, or auto: the lowest of 0.05, 0.10, ... 10 that keeps all weights in [0.5, 2] "
        "(not given: the benchmark's, else 0.5)",
    )
    parser.add_argument(
        "--alpha",
        nargs=3,
        type=float,
        metavar=("OUT", "IN", "D"),
        help="shares of the three weights in Eq. 8, sum 1 (not given: the benchmark's, else 0.25 0.25 0.5)",
    )
    parser.add_argument(
        "--on-failed",
        choices=ON_FAILED,
        help="what to do with a task whose own data did not raise its score: end; leave it out of N and give it "
        "weight 1; or divide by the smallest gain that is trusted and keep its contributions in [-1, 1] "
        "(not given: the benchmark's, else fail)",
    )
    parser.add_argument(
        "--min-gain", type=float, default=MIN_GAIN, help="smallest gain V(own) - V(mini) trusted, as a share of V(own)"
    )
    parser.add_argument("--bootstrap", type=int, metavar="N", help="resample the validation records N times, e.g. 1000")
    parser.add_argument("--per-record", help="folder of <model>/<task>.per_record.jsonl, for --bootstrap")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals")
    parser.add_argument("--bootstrap-seed", type=int, default=0, help="of the draws of --bootstrap")
    parser.add_argument(
        ALLOW, action="store_true", help="take scores of different records nevertheless, and say how they differ"
    )
    parser.add_argument("--output", help="write everything to this JSON file")
    parser.add_argument(
        "--print-weights",
        action="store_true",
        help="print the weights alone, in task-id order, for VISATB_WEIGHTS (the table goes to stderr)",
    )
    parser.add_argument("--plot", help="draw contributions, difficulties and weights to this PNG file")
    return parser


def _temperature(given: str | None, benchmark: Benchmark | None) -> float | None:
    if given is None:
        return benchmark.temperature if benchmark else DEFAULT_TEMPERATURE
    if given == "auto":
        return None
    try:
        return float(given)
    except ValueError:
        raise InputError(f"--temperature must be a number > 0 or auto, got {given!r}. Fix it.") from None


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


if __name__ == "__main__":
    run(main)
