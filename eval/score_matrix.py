"""The matrix of validation scores that weighting_visatb.py works on, checked for completeness."""

# N units that are weighted: tasks, or groups of tasks; J measured tasks (J = N without groups)

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from eval.score_tables import ScoreTable
from visatb.errors import InputError

if TYPE_CHECKING:
    from visatb.benchmark import Benchmark

MINI, BASE, FULL = "mini", "base", "full"


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
            raise InputError(f"{table.source}: row {row!r} must be {MINI} or {FULL}. Mend the name.")
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
    raise InputError(
        f"{source}: row {model!r} is no known model. Rows are {common}, {', '.join(units)}. Mend the name."
    )
