"""SEED-Bench accuracy by question type and of images, videos and all, as LLaVA's convert_seed_for_submission prints it.

An answer is right if it is the letter of the right option and nothing else. `score` is the accuracy on all questions.
Source of questions and types: https://github.com/AILab-CVC/SEED-Bench.
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
    read_object,
    report,
    scorer_parser,
)
from llava.eval.scorers.submissions import seed_submission
from visatb.cli import run
from visatb.files import write_text

LETTERS = ("A", "B", "C", "D")


def score(answers: Answers, data: Mapping[str, Any], source: str | os.PathLike) -> Scores:
    """Accuracy in percent: of all questions (`score`), of every question type, of images and of videos.

    Args:
        answers: one to each question.
        data: SEED-Bench.json: {"question_type": {name: id}, "questions": [{"question_id", "question_type_id",
            "data_type", "answer"}]}.
        source: that file, for messages.

    Raises:
        InputError: missing or further answers, a question of another shape.
    """
    names = {str(number): name for name, number in get(data, "question_type", dict, str(source)).items()}
    questions = by_id(numbered(get(data, "questions", list, str(source)), source))
    entries = []
    for line in in_order_of(list(questions), answers, source):
        question = questions[line.key]
        truth = get(question, "answer", str, f"{source}: question_id {line.question_id!r}")
        number = question.get("question_type_id")
        groups = {"type": names.get(str(number), f"type {number}"), "data": question.get("data_type")}
        entries.append(entry(line, line.text == truth, truth, malformed=line.text not in LETTERS, **groups))
    total, types, data_types = percent(entries), percent_by(entries, "type"), percent_by(entries, "data")
    summary = [f"{name}: {value:.2f}%" for name, value in types.items()]
    summary += [f"Total accuracy: {total:.2f}%", *(f"{kind} accuracy: {v:.2f}%" for kind, v in data_types.items())]
    return outcome("accuracy", total, entries, summary, question_type=types, data_type=data_types)


def main(argv: Sequence[str] | None = None) -> int:
    """The command, with the flags of LLaVA's convert_seed_for_submission."""
    parser = scorer_parser("seed", __doc__, "--annotation-file SEED-Bench.json", "SEED")
    parser.add_argument("--annotation-file", required=True, help="official SEED-Bench.json")
    parser.add_argument("--result-upload-file", help="write what the leaderboard takes to this JSON Lines file")
    options = parser.parse_args(argv)
    answers = answers_of(options, options.annotation_file, outputs=[options.result_upload_file])
    data = read_object(options.annotation_file)
    scores = score(answers, data, options.annotation_file)
    if options.result_upload_file is not None:
        write_text(options.result_upload_file, seed_submission(answers, data["questions"], options.annotation_file))
    return report(scores, answers.generator, answers.path, options)


if __name__ == "__main__":
    run(main)
