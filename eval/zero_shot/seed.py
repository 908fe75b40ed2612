"""SEED-Bench accuracy by question type and of images, videos and all, as LLaVA's convert_seed_for_submission prints it.

An answer is right if it is the letter of the right option and nothing else. `score` is the accuracy on all questions.
Source of questions and types: https://github.com/AILab-CVC/SEED-Bench.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from eval.scores import Scores, entry, percent, percent_by
from eval.zero_shot.answers import Answers, by_id, get, in_order_of, numbered, outcome, read_object
from eval.zero_shot.command import scorer
from eval.zero_shot.definition import LLAVA_FILES, Evaluation, ZeroShot, evaluated, submission
from visatb.cli import run

LETTERS = ("A", "B", "C", "D")


def score(answers: Answers, data: Mapping[str, Any], source: str | os.PathLike) -> Scores:
    """Accuracy in percent: of all questions (`score`), of every question type, of images and of videos.

    `data` is SEED-Bench.json: {"question_type": {name: id}, "questions": [{"question_id", "question_type_id",
    "data_type", "answer"}]}.
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


def upload(answers: Answers, questions: Any, source: str | os.PathLike) -> str:
    """What SEED-Bench's leaderboard takes: a line {"question_id", "prediction"} for each of its `questions`."""
    by_key = by_id(numbered(questions, source))
    lines = in_order_of(list(by_key), answers, source)
    rows = ({"question_id": by_key[line.key]["question_id"], "prediction": line.text} for line in lines)
    return "".join(json.dumps(row) + "\n" for row in rows)


def submit(answers: Answers, question_file: str, output: str) -> Evaluation:
    """The `upload` of the answers to SEED-Bench.json."""
    content = upload(answers, read_object(question_file).get("questions"), question_file)
    return submission(answers, output, content, question_file)


def evaluate(answers: Answers, annotation_file: str, result_upload_file: str | None = None) -> Evaluation:
    """The scores against the official SEED-Bench.json, and the `upload` if a file for it is named."""
    data = read_object(annotation_file)
    scores = score(answers, data, annotation_file)
    files = {result_upload_file: upload(answers, data["questions"], annotation_file)} if result_upload_file else {}
    return Evaluation(answers.source, scores, files)


_SITE = "https://github.com/AILab-CVC/SEED-Bench/blob/main/DATASET.md"
BENCHMARKS = {
    "seed": ZeroShot(
        "SEED",
        ("seed_bench",),
        "llava-seed-bench.jsonl",
        ".",
        {
            "llava-seed-bench.jsonl": LLAVA_FILES,
            "SEED-Bench.json": _SITE,
            "SEED-Bench-image": _SITE,
            "SEED-Bench-video-image": _SITE,
        },
        evaluated(evaluate, {"result_upload_file": "answers_upload/{model}.jsonl"}, annotation_file="SEED-Bench.json"),
        "answers/{model}/merge.jsonl",
    )
}


FLAGS = {
    "annotation_file": "official SEED-Bench.json",
    "result_upload_file": "write what the leaderboard takes to this JSON Lines file",
}
main = scorer("seed", __doc__, "--annotation-file SEED-Bench.json", "SEED", evaluate, FLAGS, "result_upload_file")

if __name__ == "__main__":
    run(main)
