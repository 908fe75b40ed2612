"""VizWiz accuracy on splits whose annotations are public (val).

Answers are scored as they would be submitted (LLaVA's `convert_vizwiz_for_submission`), by the rules of the VizWiz
evaluation (https://vizwiz.org/tasks-and-datasets/vqa/): as VQA accuracy, but people's answers are compared as they
stand. The test splits go to the server: see `llava.eval.scorers.submissions`.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from llava.eval.scorers.common import (
    Answers,
    Scores,
    answers_of,
    by_id,
    entry,
    get,
    in_order_of,
    numbered,
    outcome,
    percent,
    percent_by,
    read_lines,
    report,
    scorer_parser,
)
from llava.eval.scorers.vqa_text import accuracy, normalize, normalize_m4c
from llava.eval.scorers.vqav2 import reference_answers
from visatb.cli import run
from visatb.errors import InputError
from visatb.files import read_json


def score(
    answers: Answers,
    questions: Mapping[str, Mapping[str, Any]],
    annotations: Mapping[str, Mapping[str, Any]],
    source: str | os.PathLike,
) -> Scores:
    """VizWiz accuracy in percent, with that of every answer type.

    Args:
        answers: one to each question.
        questions: LLaVA's question lines by question_id; `image` leads to the annotation.
        annotations: official annotations by image name.
        source: file of the questions, for messages.

    Raises:
        InputError: missing or further answers, a question without an annotation.
    """
    entries = []
    for line in in_order_of(list(questions), answers, source):
        where = f"{source}: question_id {line.question_id!r}"
        image = get(questions[line.key], "image", str, where)
        if image not in annotations:
            raise InputError(f"{where}: image {image!r} has no annotation. Give the annotations of the same split.")
        references = reference_answers(annotations[image], f"annotation of {image}")
        value = accuracy(normalize(normalize_m4c(line.text)), references)
        kind = annotations[image].get("answer_type")
        entries.append(entry(line, value, references, malformed=not line.text.strip(), answer_type=kind))
    kinds = percent_by(entries, "answer_type")
    total = percent(entries)
    summary = [f"Overall accuracy: {total:.2f}", *(f"{kind}: {value:.2f}" for kind, value in kinds.items())]
    return outcome("vqa_accuracy", total, entries, summary, answer_type=kinds)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = scorer_parser("vizwiz", __doc__, "--question-file llava_val.jsonl --annotation-file val.json", "VizWiz")
    parser.add_argument("--question-file", required=True, help="LLaVA's question lines, with image")
    parser.add_argument("--annotation-file", required=True, help="official annotations of the split (val.json)")
    options = parser.parse_args(argv)
    answers = answers_of(options, options.question_file, options.annotation_file)
    questions = by_id(read_lines(options.question_file))
    annotations = by_id(numbered(read_json(options.annotation_file), options.annotation_file), "image")
    return report(
        score(answers, questions, annotations, options.question_file), answers.generator, answers.path, options
    )


if __name__ == "__main__":
    run(main)
