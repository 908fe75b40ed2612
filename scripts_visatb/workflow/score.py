"""Scores one model's answers on all its tasks, in one process; the metric files are those of eval/*.py.

python -m scripts_visatb.workflow.score --benchmark B.yaml --run runs/demo --seed 0 --model mini --split val
"""

import os
from collections.abc import Callable
from functools import partial

from eval import bleu, caption, caption_list, gleu, grounding, judge, qa
from eval.answers import read_answers
from eval.command import Scores, notes_on, print_notes, write_scores
from eval.judge_client import DEFAULT_URL, URL_VARIABLE, Judge, ReplyFile
from scripts_visatb.workflow.graph import Run, metrics_of
from scripts_visatb.workflow.models import Model, models_of
from scripts_visatb.workflow.step import run_of, step_parser
from visatb.benchmark import Task
from visatb.cli import run
from visatb.errors import InputError


def scorer(metric: str) -> Callable[..., Scores]:
    """The function of eval/ that computes a metric, other than the judge's."""
    functions = {
        "cider": caption.score,
        "cider_list": caption_list.score,
        "exact_match": qa.score,
        "iou": grounding.score,
        "gleu": gleu.score,
        "bleu": bleu.score,
    }
    return functions[metric]


def judging(current: Run, model: str, split: str, task: Task) -> Callable[..., Scores]:
    """The judge's function with the benchmark's settings; its replies are kept in the run."""
    settings = {"judge-url": os.environ.get(URL_VARIABLE) or DEFAULT_URL} | current.benchmark.judge
    contexts = settings.pop("context-file", None)
    if isinstance(contexts, dict):
        contexts = contexts.get(split)
    rules = judge.read_rules(settings.pop("rule-file", None))
    concurrency = settings.pop("concurrency", 4)
    asked = Judge(**{name.removeprefix("judge-").replace("-", "_"): value for name, value in settings.items()})
    replies = current.reply_file(model, split, task.name)
    replies.parent.mkdir(parents=True, exist_ok=True)
    return partial(
        judge.score,
        judge=asked,
        replies=ReplyFile(replies),
        rules=rules,
        contexts=judge.read_contexts(contexts),
        concurrency=concurrency,
    )


def score_model(current: Run, model: Model, split: str) -> None:
    """Score a model on its tasks and write a metric file and a per-record file for each of their metrics.

    Raises:
        InputError: if answers are missing, are another model's or are not those to the question file.
        JudgeError: if the judge does not answer; what it said so far is kept.
    """
    for task in model.tasks(split):
        path = current.answer_file(model.name, split, task)
        answers = read_answers(path, current.question_file(split, task))
        if answers.generator != model.name:
            raise InputError(
                f"{path}: generator must be {model.name!r}, got {answers.generator!r}. Run the inference again."
            )
        for metric in metrics_of(task, split):
            judged = metric == "judge"
            score = judging(current, model.name, split, task) if judged else scorer(metric)
            outcome = score(answers.answers)
            name = task.name if metric == task.metric else f"{task.name}:{metric}"
            target = current.metric_file(model.name, split, name)
            write_scores(outcome, answers, output=target, per_record=target.with_suffix(".per_record.jsonl"))
            print(f"{name}: {outcome['summary']}", flush=True)
            print_notes([f"{name}: {note}" for note in notes_on(outcome, answers)])


def main() -> None:
    """Command line."""
    args = step_parser(__doc__, split=True).parse_args()
    current = run_of(args)
    score_model(current, models_of(current.benchmark)[args.model], args.split)


if __name__ == "__main__":
    run(main)
