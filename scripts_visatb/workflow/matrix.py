"""Collects validation scores into a table that weighting_visatb.py reads: scores.csv and those of the other forms.

python -m scripts_visatb.workflow.matrix --benchmark B.yaml --run runs/demo --seed 0 --table scores
"""

import csv
import io
from collections.abc import Iterable

from scripts_visatb.workflow.models import TABLES, table_rows
from scripts_visatb.workflow.places import Run
from scripts_visatb.workflow.step import run_of, step_parser
from visatb.cli import run
from visatb.errors import InputError
from visatb.files import read_json, write_text
from visatb.weighting.comparable import Cell, check_comparable, measured_of


def read_score(current: Run, model: str, split: str, task: str) -> float:
    """The score in a metric file. Raises InputError if it is not a number."""
    path = current.metric_file(model, split, task)
    score = read_json(path).get("score")
    if not isinstance(score, int | float) or isinstance(score, bool):
        raise InputError(f"{path}: score must be a number, got {score!r}. Score the answers again.")
    return float(score)


def refuse_incomparable(current: Run, split: str, scores: Iterable[tuple[str, str]]) -> None:
    """Refuse scores of models that differ in metric or records.

    Args:
        current, split: seed and split of the metric files.
        scores: (model, task or `task:metric`) of each compared score.
    """
    cells = []
    for model, column in scores:
        file = current.metric_file(model, split, column)
        cells.append(Cell(model, column, measured_of(read_json(file), file)))
    check_comparable(cells, remedy="Delete the outdated answers and run again.")


def write_matrix(current: Run, name: str) -> None:
    """Write a table: a row per model (of the single-task models per share of the data), a column per measured task."""
    rows = table_rows(current.benchmark, name)
    refuse_incomparable(current, "val", [(model, task) for row in rows.values() for task, model in row.items()])
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["model", *(task.name for task in current.benchmark.measured)])
    for row, models in rows.items():
        scores = (read_score(current, model, "val", task) for task, model in models.items())
        table.writerow([row, *map(repr, scores)])
    write_text(current.table(name), text.getvalue())
    print(text.getvalue(), end="", flush=True)


def main() -> None:
    """Command line."""
    parser = step_parser(__doc__)
    parser.add_argument("--table", required=True, choices=TABLES, help="which table")
    args = parser.parse_args()
    write_matrix(run_of(args), args.table)


if __name__ == "__main__":
    run(main)
