"""The matrix of validation scores that the weights are computed from, checked for completeness."""

# N units that are weighted: tasks, or groups of tasks; J measured tasks (J = N without groups)

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from visatb.errors import InputError
from visatb.weighting.comparable import check_comparable
from visatb.weighting.settings import BASE, FULL, MINI, SIMPLER, STANDARD
from visatb.weighting.tables import ScoreTable, read_score_table

if TYPE_CHECKING:  # a benchmark file needs further packages
    from visatb.benchmark import Benchmark

_NO_ERROR = "the difficulty has no error of its own"


@dataclass(frozen=True)
class ScoreMatrix:
    """Checked scores of the N+1 models.

    Attributes:
        source: where they come from, for messages.
        tasks: the J measured tasks.
        units: the N tasks or groups that are weighted.
        unit_J: int [J], index of each task's unit.
        mini_J: float64 [J], V_j(mini), or V_j(base) in the simpler form (Eq. 10).
        score_NJ: float64 [N, J], V_j(i+mini), or V_j(i) in the simpler form.
        common: name of the model of mini_J.
        single_mini_J, single_own_J: float64 [J], V_j(mini_j) and V_j(j) of single-task models, which make the
            difficulty precise (Eq. 11, 12); None takes mini_J and the own scores (Eq. 6).
    """

    source: str
    tasks: tuple[str, ...]
    units: tuple[str, ...]
    unit_J: np.ndarray
    mini_J: np.ndarray
    score_NJ: np.ndarray
    common: str = MINI
    single_mini_J: np.ndarray | None = None
    single_own_J: np.ndarray | None = None

    def own_scores(self) -> np.ndarray:
        """V_j of the model that was trained on much of task j, float64 [J]."""
        return self.score_NJ[self.unit_J, np.arange(len(self.tasks))]

    def difficulty_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """The scores after little and after much data that the difficulty compares, float64 [J] each."""
        if self.single_mini_J is None:
            return self.mini_J, self.own_scores()
        return self.single_mini_J, self.own_scores() if self.single_own_J is None else self.single_own_J

    def failed(self, min_gain: float) -> np.ndarray:
        """Which tasks' own data raised their score by no more than `min_gain` of it, bool [J]."""
        own_J = self.own_scores()
        return own_J - self.mini_J <= min_gain * own_J

    def failed_tasks(self, min_gain: float) -> list["FailedTask"]:
        """Those tasks with their scores."""
        own_J = self.own_scores()
        return [
            FailedTask(self.tasks[j], self.units[self.unit_J[j]], self.common, float(own_J[j]), float(self.mini_J[j]))
            for j in np.flatnonzero(self.failed(min_gain))
        ]

    def without(self, failed_J: np.ndarray) -> "ScoreMatrix":
        """The matrix without the marked tasks (bool [J]), and without units that have no task left.

        Raises:
            InputError: if fewer than 2 units are left.
        """
        kept = sorted(set(self.unit_J[~failed_J].tolist()))
        if len(kept) < 2:
            raise InputError(f"{self.source}: fewer than 2 tasks are left after the failed ones. Measure again.")
        return replace(
            self,
            tasks=tuple(task for task, failed in zip(self.tasks, failed_J, strict=True) if not failed),
            units=tuple(self.units[unit] for unit in kept),
            unit_J=np.array([kept.index(unit) for unit in self.unit_J[~failed_J]]),
            mini_J=self.mini_J[~failed_J],
            score_NJ=self.score_NJ[kept][:, ~failed_J],
            single_mini_J=None if self.single_mini_J is None else self.single_mini_J[~failed_J],
            single_own_J=None if self.single_own_J is None else self.single_own_J[~failed_J],
        )


@dataclass(frozen=True)
class FailedTask:
    """A task whose own data did not raise its score.

    Attributes:
        task, unit, common: its name, that of the model with its own data, and that of the model without.
        own, without: the scores of the two.
    """

    task: str
    unit: str
    common: str
    own: float
    without: float

    def __str__(self) -> str:
        with_own = f"{self.own:g} with its own data ({self.unit})"
        return f"{self.task} scores {with_own} and {self.without:g} without ({self.common})"

    def to_json(self, on_failed: str, weighed: Sequence[str]) -> dict[str, Any]:
        """An entry of `failed` in weights.json; `weighed` names the tasks or groups that have a weight of their own."""
        left_out = on_failed == "exclude"
        done = "clipped" if not left_out else "left out, with weight 1"
        if left_out and self.unit in weighed:
            done = f"left out of the measurement of {self.unit}"
        entry = {name: getattr(self, name) for name in ("task", "unit", "own", "without")}
        return entry | {"weighed": self.unit in weighed, "about": f"{self}: it is {done}"}


def runs_that_failed(matrices: Sequence[ScoreMatrix], min_gain: float) -> list[str]:
    """A sentence for every task that failed in one of several runs."""
    if len(matrices) == 1:
        return []
    rule = "the run counts in the mean and in the error"
    return [f"run {matrix.source}: {task}; {rule}" for matrix in matrices for task in matrix.failed_tasks(min_gain)]


def mean_matrix(matrices: Sequence[ScoreMatrix]) -> ScoreMatrix:
    """The matrix of mean scores of several runs (seeds); one matrix is its own mean.

    Raises:
        InputError: if they do not score the same tasks.
    """
    first = matrices[0]
    for other in matrices[1:]:
        if (other.tasks, other.units) != (first.tasks, first.units):
            raise InputError(f"{other.source}: must score the tasks of {first.source}. Measure the same tasks.")
    names = ("mini_J", "score_NJ", "single_mini_J", "single_own_J")
    means = {
        name: None if getattr(first, name) is None else np.mean([getattr(matrix, name) for matrix in matrices], axis=0)
        for name in names
    }
    return replace(first, source=", ".join(matrix.source for matrix in matrices), **means)


def read_matrices(
    scores: Sequence[str],
    single_scores: Sequence[str] | None,
    form: str,
    benchmark: "Benchmark | None" = None,
    allow_different_records: bool = False,
    metric_names: Mapping[str, str] | None = None,
) -> tuple[list[ScoreMatrix], list[str]]:
    """The score matrix of every run.

    Args:
        scores: score tables, one for each run.
        single_scores: single-task scores, which all forms but the standard one need: one table, or one for each run.
        form: of the weights.
        benchmark: see `score_matrix`.
        allow_different_records: see `check_comparable`.
        metric_names: metric of a benchmark file -> its name in metric files; with it the scores must be of the
            benchmark's metrics.

    Returns:
        the matrices; and a sentence for everything that a reader of the result should know.

    Raises:
        InputError: naming file, row and column.
    """
    if (form != STANDARD) != (single_scores is not None):
        raise InputError("--single-scores goes with --form simpler or precise, which need it. Set both.")
    tables = [read_score_table(path) for path in scores]
    singles = [read_score_table(path) for path in single_scores or ()]
    if len(singles) not in (0, 1, len(tables)):
        raise InputError(f"--single-scores must be one, or one for each of {len(tables)} --scores, got {len(singles)}.")
    known = metric_names or {}
    metrics = {task.name: known[task.metric] for task in benchmark.measured} if benchmark and known else None
    cells = [cell for table in (*tables, *singles) for cell in table.cells()]
    notes = check_comparable(cells, allow_different_records, metrics, known.values())
    matrices = [score_matrix(table, benchmark, BASE if form == SIMPLER else MINI) for table in tables]
    each = singles * len(tables) if len(singles) == 1 else singles
    if each:
        matrices = [with_single_task_scores(matrix, single) for matrix, single in zip(matrices, each, strict=True)]
    if len(singles) < len(each):
        partly = matrices[0].single_own_J is None
        lacks = "the error of V(mini) is not in that of the difficulty" if partly else _NO_ERROR
        notes.append(f"one --single-scores for {len(tables)} runs: {lacks}. Give one for each run to measure it")
    return matrices, notes


def score_matrix(table: ScoreTable, benchmark: "Benchmark | None" = None, common: str = MINI) -> ScoreMatrix:
    """The matrix in a score table, checked for completeness.

    Args:
        table: rows `mini` (or `base`) and one per unit, in any order.
        benchmark: gives tasks, their order and groups; None takes every column as a task, in the order of the table.
        common: the row that all others are compared with, MINI or, in the simpler form, BASE.

    Raises:
        InputError: naming the row or column.
    """
    source = table.source
    if benchmark is None:
        unit_of = {name: name for name in table.columns}
    else:
        unit_of = {task.name: task.group or task.name for task in benchmark.measured}
        _refuse_other_tasks(table, benchmark, list(unit_of))
    units = tuple(dict.fromkeys(unit_of.values()))
    if common in units:
        raise InputError(f"{source}: no task may be named {common!r}, the name of the common model. Rename the task.")
    if len(units) < 2:
        raise InputError(f"{source}: must have at least 2 tasks to balance, got {len(units)}. Add tasks.")
    rows: dict[str, dict[str, float]] = {}
    for model, cells in table.rows.items():
        unit = _unit_of_model(model, units, common, source)
        if unit in rows:
            raise InputError(f"{source}: row {model!r} is the second of {unit!r}. Give every model one row.")
        rows[unit] = cells
    for unit in (common, *units):
        if unit not in rows:
            raise InputError(f"{source}: row {unit!r} is missing. Add the scores of that model on every task.")
        for task in unit_of:
            if task not in rows[unit]:
                raise InputError(f"{source}: {unit}, {task}: the score is missing. Add it.")
    return ScoreMatrix(
        source=source,
        tasks=tuple(unit_of),
        units=units,
        unit_J=np.array([units.index(unit) for unit in unit_of.values()]),
        mini_J=np.array([rows[common][task] for task in unit_of]),
        score_NJ=np.array([[rows[unit][task] for task in unit_of] for unit in units]),
        common=common,
    )


def with_single_task_scores(matrix: ScoreMatrix, table: ScoreTable) -> ScoreMatrix:
    """The matrix with what the precise difficulty compares (Eq. 11, 12).

    Args:
        matrix: of the standard or the simpler form.
        table: row `mini`, the score of each task after the mini subset of that task alone, and row `full`, after all
            of it alone. `full` may be absent in the simpler form, whose matrix holds it.

    Raises:
        InputError: naming the row or column.
    """
    for row in table.rows:
        if row not in (MINI, FULL):
            raise InputError(f"{table.source}: row {row!r} must be {MINI} or {FULL}. Fix the name.")
    needed = (MINI,) if matrix.common == BASE else (MINI, FULL)
    for row in {*needed, *table.rows}:
        for task in matrix.tasks:
            if task not in table.rows.get(row, {}):
                raise InputError(f"{table.source}: {row}, {task}: the single-task score is missing. Add it.")
    own = table.rows.get(FULL)
    for task in matrix.tasks:
        if own is not None and own[task] <= 0:
            raise InputError(f"{table.source}: {FULL}, {task}: must be above 0 to be divided by. Measure it again.")
    return replace(
        matrix,
        single_mini_J=np.array([table.rows[MINI][task] for task in matrix.tasks]),
        single_own_J=None if own is None else np.array([own[task] for task in matrix.tasks]),
    )


def _refuse_other_tasks(table: ScoreTable, benchmark: "Benchmark", measured: list[str]) -> None:
    missing = [name for name in measured if name not in table.columns]
    if missing:
        raise InputError(f"{table.source}: column {missing[0]!r} of {benchmark.path} is missing. Add its scores.")
    for name in table.columns:
        if name not in measured:
            kind = "has a fixed weight in" if name in benchmark.task_names else "is no task of"
            raise InputError(f"{table.source}: column {name!r} {kind} {benchmark.path}. Remove the column.")


def _unit_of_model(model: str, units: Sequence[str], common: str, source: str) -> str:
    for name in (model, model.removesuffix("+mini"), model.removesuffix("-plus-mini")):
        if name == common or name in units:
            return name
    raise InputError(f"{source}: row {model!r} is no known model. Rows are {common}, {', '.join(units)}. Fix the name.")
