"""Runs the zero-shot suite on one final model: one call of llava.eval.suite.

python -m scripts_visatb.workflow.zero_shot --benchmark B.yaml --run runs/demo --seed 0 --model VisATB
"""

import shlex
from collections.abc import Mapping
from typing import Any

from eval.zero_shot.table import ZERO_SHOT_TASKS
from scripts_visatb.workflow.infer import asked_model, flag_words, interpreter
from scripts_visatb.workflow.models import EW, models_of
from scripts_visatb.workflow.places import Run
from scripts_visatb.workflow.step import run_of, run_program, step_parser
from visatb.cli import run


def suite_command(current: Run, model: str, asked: Mapping[str, Any]) -> list[str]:
    """The command. The benchmark's `zero_shot` section gives flags of llava.eval.suite by name.

    Args:
        current, model: which model.
        asked: the flags of `asked_model`, for the engine of the `inference` section.
    """
    metrics = current.home / "zero_shot_metrics"
    # dI_zero% compares with EW, which was scored before if any of the chosen benchmarks has a score.
    is_scored = any((metrics / EW / f"{task}.json").is_file() for task in ZERO_SHOT_TASKS)
    fixed = {
        **asked,
        "model-name": model,
        "output": current.home / "zero_shot",
        "metrics-folder": metrics,
        "baseline": metrics / EW if model != EW and is_scored else None,
        "overwrite": True,  # answers of an earlier training of the model are replaced
    }
    flags = current.benchmark.zero_shot | fixed
    words = [word for name, value in flags.items() for word in flag_words(name, value)]
    return [*shlex.split(interpreter(current.benchmark)), "-m", "llava.eval.suite", *words]


def main() -> int:
    """Command line."""
    parser = step_parser(__doc__)
    parser.add_argument("--model", required=True, help="name of the model")
    args = parser.parse_args()
    current = run_of(args)
    (current.home / "zero_shot").mkdir(parents=True, exist_ok=True)
    with asked_model(current, models_of(current.benchmark)[args.model], "zero_shot") as asked:
        return run_program(suite_command(current, args.model, asked))


if __name__ == "__main__":
    run(main)
