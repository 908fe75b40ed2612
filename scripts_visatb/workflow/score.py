"""Scores one model's answers on all its tasks, in one process; the metric files are those of eval/*.py.

python -m scripts_visatb.workflow.score --benchmark B.yaml --run runs/demo --seed 0 --model mini --split val
"""

from collections.abc import Callable

from eval import caption, caption_list, grounding, qa
from eval.answers import read_answers
from eval.command import Scores, notes_on, print_notes, write_scores
from scripts_visatb.workflow.graph import Run, evaluated_tasks
from scripts_visatb.workflow.step import run_of, step_parser
from visatb.cli import run
from visatb.errors import InputError


def scorer(metric: str) -> Callable[..., Scores]:
    """The function of eval/ that computes a benchmark's metric."""
    functions = {
        "cider": caption.score,
        "cider_list": caption_list.score,
        "exact_match": qa.score,
        "iou": grounding.score,
    }
    return functions[metric]


def score_model(current: Run, model: str, split: str) -> None:
    """Score a model on its tasks and write a metric file and a per-record file for each.

    Raises:
        InputError: if answers are missing, are another model's or are not those to the question file.
    """
    for task in evaluated_tasks(current.benchmark, model):
        path = current.answer_file(model, split, task)
        answers = read_answers(path, current.question_file(split, task))
        if answers.generator != model:
            raise InputError(
                f"{path}: generator must be {model!r}, got {answers.generator!r}. Run the inference again."
            )
        outcome = scorer(task.metric)(answers.answers)
        target = current.metric_file(model, split, task.name)
        write_scores(outcome, answers, output=target, per_record=target.with_suffix(".per_record.jsonl"))
        print(f"{task.name}: {outcome['summary']}", flush=True)
        print_notes([f"{task.name}: {note}" for note in notes_on(outcome, answers)])


def main() -> None:
    """Command line."""
    parser = step_parser(__doc__.split("\n\n")[0])
    parser.add_argument("--model", required=True, help="name of the model")
    parser.add_argument("--split", required=True, choices=("val", "test"))
    args = parser.parse_args()
    score_model(run_of(args), args.model, args.split)


if __name__ == "__main__":
    run(main)
