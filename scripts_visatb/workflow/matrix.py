"""Collects the validation scores of the N+1 preparation models into scores.csv, which weighting_visatb.py reads.

python -m scripts_visatb.workflow.matrix --benchmark B.yaml --run runs/demo --seed 0
"""

import csv
import io

from scripts_visatb.workflow.graph import Run, matrix_row, preparation_models
from scripts_visatb.workflow.step import run_of, step_parser
from visatb.cli import run
from visatb.errors import InputError
from visatb.files import read_json, write_text


def read_score(current: Run, model: str, split: str, task: str) -> float:
    """The score in a metric file. Raises InputError if it is no number."""
    path = current.metric_file(model, split, task)
    score = read_json(path).get("score")
    if not isinstance(score, int | float) or isinstance(score, bool):
        raise InputError(f"{path}: score must be a number, got {score!r}. Score the answers again.")
    return float(score)


def write_matrix(current: Run) -> None:
    """Write scores.csv: a row per preparation model, a column per measured task, at full precision."""
    tasks = [task.name for task in current.benchmark.measured]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["model", *tasks])
    for model in preparation_models(current.benchmark):
        table.writerow([matrix_row(model), *(repr(read_score(current, model, "val", task)) for task in tasks)])
    write_text(current.scores, text.getvalue())
    print(text.getvalue(), end="", flush=True)


def main() -> None:
    """Command line."""
    write_matrix(run_of(step_parser(__doc__.split("\n\n")[0]).parse_args()))


if __name__ == "__main__":
    run(main)
