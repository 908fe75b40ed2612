"""GQA accuracy on the balanced questions of an official question file (testdev_balanced_questions.json).

An answer is right if it equals the truth after LLaVA's preparation: lower case, no period at the end. As in the
official eval.py (https://cs.stanford.edu/people/dorarad/gqa/evaluate.html) questions that are not balanced are
skipped, and questions of structural type `query` are open, the others binary.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eval.scores import Scores, entry, percent, percent_by
from eval.zero_shot.answers import Answers, by_id, get, in_order_of, outcome, read_lines, read_object, unique
from eval.zero_shot.command import scorer
from eval.zero_shot.definition import LLAVA_FILES, Evaluation, Place, ZeroShot, submission
from visatb.cli import run
from visatb.errors import InputError


def prediction_of(text: str) -> str:
    """What LLaVA hands to the official evaluation."""
    return text.rstrip(".").lower()


def score(answers: Answers, questions: Mapping[str, Any], source: str | os.PathLike) -> Scores:
    """Accuracy in percent, with that of binary and open questions and of every structural and semantic type.

    Answers to questions that are not balanced are skipped. `questions` is the official file:
    id -> {"question", "answer", "isBalanced", "types": {"structural", "semantic"}}.
    """
    asked = {}
    for identifier, question in questions.items():
        if not isinstance(question, dict):
            raise InputError(f"{source}: question {identifier!r} must be an object. Give the official file.")
        if question.get("isBalanced", True):
            asked[identifier] = question
    lines = [line for line in answers.lines if line.key not in questions or line.key in asked]
    if not asked or not lines:
        raise InputError(f"{source}: has no balanced question that is answered. Give the file that was asked.")
    entries = []
    for line in in_order_of(list(asked), replace(answers, lines=tuple(lines)), source):
        truth = get(asked[line.key], "answer", str, f"{source}: question {line.key!r}")
        types = asked[line.key].get("types")
        types = types if isinstance(types, dict) else {}
        structural = types.get("structural")
        groups = {"structural": structural, "semantic": types.get("semantic")}
        if structural is not None:
            groups["kind"] = "open" if structural == "query" else "binary"
        right = prediction_of(line.text) == truth
        entries.append(entry(line, right, truth, malformed=not line.text.strip(), **groups))
    total = percent(entries)
    parts = {group: percent_by(entries, group) for group in ("kind", "structural", "semantic")}
    summary = [f"{kind.capitalize()}: {value:.2f}%" for kind, value in parts["kind"].items()]
    summary.append(f"Accuracy: {total:.2f}%")
    for group in ("structural", "semantic"):
        summary += [f"  {group} {name}: {value:.2f}%" for name, value in parts[group].items()]
    return outcome("accuracy", total, entries, summary, **parts)


def predictions(answers: Answers) -> str:
    """What GQA's official eval.py reads: [{"questionId", "prediction"}]."""
    lines = unique(answers).lines
    return json.dumps([{"questionId": line.question_id, "prediction": prediction_of(line.text)} for line in lines])


def submit(answers: Answers, question_file: str, output: str) -> Evaluation:
    """The `predictions` of exactly the questions of LLaVA's file."""
    in_order_of(list(by_id(read_lines(question_file))), answers, question_file)
    return submission(answers, output, predictions(answers), question_file)


def evaluate(answers: Answers, annotation_file: str) -> Evaluation:
    """The scores against an official question file."""
    return Evaluation(answers.source, score(answers, read_object(annotation_file), annotation_file))


def _evaluations(place: Place, answers: Answers) -> list[Evaluation]:
    upload = submit(answers, place.data("{split}.jsonl"), place.made("data/{tier}_predictions.json"))
    return [upload, evaluate(answers, place.data("data/{tier}_questions.json"))]


_SITE = "https://cs.stanford.edu/people/dorarad/gqa/download.html"
BENCHMARKS = {
    "gqa": ZeroShot(
        "GQA",
        ("gqa",),
        "{split}.jsonl",
        "data/images",
        {"{split}.jsonl": LLAVA_FILES, "data/{tier}_questions.json": _SITE, "data/images": _SITE},
        _evaluations,
        "answers/{split}/{model}/merge.jsonl",
        split="llava_gqa_testdev_balanced",
    )
}


FLAGS = {"annotation_file": ("official question file", "--annotation-file", "--questions")}
main = scorer("gqa", __doc__, "--annotation-file testdev_balanced_questions.json", "GQA", evaluate, FLAGS)

if __name__ == "__main__":
    run(main)
