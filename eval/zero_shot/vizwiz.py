"""VizWiz accuracy on splits whose annotations are public (val).

Answers are scored as they would be submitted (LLaVA's `convert_vizwiz_for_submission`), by the rules of the VizWiz
evaluation (https://vizwiz.org/tasks-and-datasets/vqa/): as VQA accuracy, but people's answers are compared as they
stand. The test splits go to the server: see `upload`.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from eval.scores import Scores, entry, percent, percent_by
from eval.zero_shot.answers import Answers, by_id, get, in_order_of, numbered, outcome, read_lines
from eval.zero_shot.command import scorer
from eval.zero_shot.definition import LIKE_TEST, LLAVA_FILES, Evaluation, ZeroShot, evaluated, submission
from eval.zero_shot.vqa_text import accuracy, normalize, normalize_m4c
from eval.zero_shot.vqav2 import Questions, reference_answers
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

    `questions` are LLaVA's lines by question_id, whose `image` is the key of the official `annotations`.
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


def upload(answers: Answers, questions: Questions, source: str | os.PathLike) -> str:
    """What VizWiz' server takes: [{"image", "answer"}], answers in the form of `normalize_m4c`."""
    lines = in_order_of(list(questions), answers, source)
    images = [get(questions[line.key], "image", str, f"{source}: question_id {line.key}") for line in lines]
    return json.dumps(
        [{"image": image, "answer": normalize_m4c(line.text)} for image, line in zip(images, lines, strict=True)]
    )


def submit(answers: Answers, question_file: str, output: str) -> Evaluation:
    """The `upload` of the answers to LLaVA's question lines."""
    content = upload(answers, by_id(read_lines(question_file)), question_file)
    return submission(answers, output, content, question_file)


def evaluate(answers: Answers, question_file: str, annotation_file: str) -> Evaluation:
    """The scores of the answers to LLaVA's question lines against the official annotations."""
    questions = by_id(read_lines(question_file))
    annotations = by_id(numbered(read_json(annotation_file), annotation_file), "image")
    return Evaluation(answers.source, score(answers, questions, annotations, question_file))


_IMAGES = "https://vizwiz.cs.colorado.edu/VizWiz_final/images/{}.zip"
BENCHMARKS = {
    "vizwiz": ZeroShot(
        "",
        ("vizwiz",),
        "llava_test.jsonl",
        "test",
        {"llava_test.jsonl": LLAVA_FILES, "test": _IMAGES.format("test")},
        evaluated(submit, {"output": "answers_upload/{model}.json"}, question_file="llava_test.jsonl"),
    ),
    "vizwiz_val": ZeroShot(
        "VizWiz",
        ("vizwiz",),
        "llava_val.jsonl",
        "val",
        {
            "llava_val.jsonl": LIKE_TEST,
            "val.json": "https://vizwiz.cs.colorado.edu/VizWiz_final/vqa_data/Annotations.zip",
            "val": _IMAGES.format("val"),
        },
        evaluated(evaluate, question_file="llava_val.jsonl", annotation_file="val.json"),
        "answers/llava_val/{model}.jsonl",
    ),
}

FLAGS = {
    "question_file": "LLaVA's question lines, with image",
    "annotation_file": "official annotations of the split (val.json)",
}
EXAMPLE = "--question-file llava_val.jsonl --annotation-file val.json"
main = scorer("vizwiz", __doc__, EXAMPLE, "VizWiz", evaluate, FLAGS)

if __name__ == "__main__":
    run(main)
