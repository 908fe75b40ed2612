"""Scores one model's answers on all its tasks, in one process; the metric files are those of eval/*.py.

python -m scripts_visatb.workflow.score --benchmark B.yaml --run runs/demo --seed 0 --model mini --split val
"""

from typing import Any

from eval import judge
from eval.answers import read_answers
from eval.registry import JUDGE, find_metric
from eval.scores import report
from scripts_visatb.workflow.graph import metrics_of
from scripts_visatb.workflow.models import Model, models_of
from scripts_visatb.workflow.places import Run
from scripts_visatb.workflow.step import run_of, step_parser
from visatb.benchmark import Task
from visatb.cli import run
from visatb.errors import InputError


def judging(current: Run, model: str, split: str, task: Task) -> dict[str, Any]:
    """What the judge's metric needs, from the benchmark's settings; its replies are kept in the run."""
    settings = {name.replace("-", "_"): value for name, value in current.benchmark.judge.items()}
    if isinstance(settings.get("context_file"), dict):
        settings["context_file"] = settings["context_file"].get(split)
    path = current.answer_file(model, split, task)
    return judge.judged_by(path, replies=current.reply_file(model, split, task.name), **settings)


def score_model(current: Run, model: Model, split: str) -> None:
    """Score a model on its tasks and write a metric file and a per-record file for each of their metrics.

    Raises:
        InputError: answers are missing, belong to another model, or do not match the question file.
        JudgeError: the judge does not answer; its replies so far are kept.
    """
    for task in model.tasks(split):
        path = current.answer_file(model.name, split, task)
        answers = read_answers(path, current.question_file(split, task))
        if answers.generator != model.name:
            raise InputError(
                f"{path}: generator must be {model.name!r}, got {answers.generator!r}. Run the inference again."
            )
        answers = answers.of_task(task.name)  # tasks may share a question file
        for name in metrics_of(task, split):
            metric = find_metric(name)
            needed = judging(current, model.name, split, task) if metric.needs == JUDGE else {}
            column = task.name if name == task.metric else f"{task.name}:{name}"
            target = current.metric_file(model.name, split, column)
            scores = metric.score(answers.answers, **needed)
            report(scores, answers.source, target, target.with_suffix(".per_record.jsonl"), label=f"{column}: ")


def main() -> None:
    """Command line."""
    args = step_parser(__doc__, split=True).parse_args()
    current = run_of(args)
    score_model(current, models_of(current.benchmark)[args.model], args.split)


if __name__ == "__main__":
    run(main)
