"""Contributions that were approximated from gradients (`visatb gradients`), as a matrix that `weigh` takes."""

# N units, J measured tasks

from pathlib import Path
from typing import Any

import numpy as np

from visatb.errors import InputError, shown
from visatb.files import read_json
from visatb.weighting.matrix import ScoreMatrix
from visatb.weighting.settings import BASE, FULL, MINI
from visatb.weighting.tables import ScoreTable

SOURCES = {  # rows of the score table -> what the difficulty compares, for readers
    (MINI, FULL): "difficulty from single-task models, 1 - V_i(mini_i) / V_i(i)",
    (BASE, MINI): "difficulty from the base model and mini, 1 - V_i(base) / V_i(mini)",
}


def contribution_matrix(path: str | Path, table: ScoreTable) -> tuple[ScoreMatrix, str]:
    """The matrix whose contributions (Eq. 3) are those of the file and whose difficulties come from a score table.

    Args:
        path: file of `visatb gradients`.
        table: rows `mini` and `full`, of single-task models, or `base` and `mini`.

    Returns:
        the matrix: scores 0 without and C1 with the unit's data; and one sentence for reports.

    Raises:
        InputError: naming file and key, or row and column.
    """
    content = read_json(path)
    keys = ("units", "tasks", "contributions", "unit_of_task")
    units, tasks, C_NJ, unit_J = (_part(content, key, path) for key in keys)
    score_NJ = _checked(C_NJ, unit_J, units, tasks, path)
    rows = next((rows for rows in SOURCES if set(rows) <= set(table.rows)), None)
    if rows is None:
        raise InputError(f"{table.source}: must have the rows base and mini, or mini and full. Add them.")
    before_J, after_J = (np.array([_score(table, row, task) for task in tasks]) for row in rows)
    about = f"contributions are {content.get('about') or 'an approximation from gradients'}; {SOURCES[rows]}"
    matrix = ScoreMatrix(
        source=str(path),
        tasks=tuple(tasks),
        units=tuple(units),
        unit_J=np.array(unit_J),
        mini_J=np.zeros(len(tasks)),
        score_NJ=score_NJ,
        common=MINI,
        single_mini_J=before_J,
        single_own_J=after_J,
    )
    return matrix, about


def _part(content: Any, key: str, path: str | Path) -> list:
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, list) or len(value) < 2:
        raise InputError(f"{path}: {key} must be a list, got {shown(value)}. Use a file of `visatb gradients`.")
    return value


def _checked(C_NJ: list, unit_J: list, units: list, tasks: list, path: str | Path) -> np.ndarray:
    try:
        values_NJ, own_J = np.array(C_NJ, dtype=np.float64), np.array(unit_J, dtype=np.int64)
        valid = values_NJ.shape == (len(units), len(tasks)) and np.isfinite(values_NJ).all()
        valid = valid and np.allclose(values_NJ[own_J, np.arange(len(tasks))], 1) and (own_J >= 0).all()
    except (TypeError, ValueError, IndexError, OverflowError):
        valid = False
    if not valid:
        rule = f"contributions must be {len(units)} rows of {len(tasks)} finite numbers, 1 for a task's own unit"
        raise InputError(f"{path}: {rule}. Use a file of `visatb gradients`.")
    return values_NJ


def _score(table: ScoreTable, row: str, task: str) -> float:
    value = table.rows[row].get(task)
    if value is None or (value <= 0 and row != BASE):
        rule = "is missing" if value is None else "must be above 0"
        raise InputError(f"{table.source}: {row}, {task}: the score {rule}. Score that model on every task.")
    return value
