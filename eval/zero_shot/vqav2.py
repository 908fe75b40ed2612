"""VQAv2 accuracy on splits whose annotations are public (val).

Answers are scored as they would be submitted (LLaVA's `convert_vqav2_for_submission`), by the rules of the VQA
evaluation (https://visualqa.org/evaluation.html). The test splits go to the server: see `upload`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from eval.scores import Scores, entry, percent, percent_by
from eval.zero_shot.answers import Answers, by_id, get, in_order_of, numbered, outcome, read_lines, read_object
from eval.zero_shot.command import scorer
from eval.zero_shot.definition import COCO, LIKE_TEST, LLAVA_FILES, Evaluation, ZeroShot, evaluated, submission
from eval.zero_shot.vqa_text import normalize_m4c, vqa_accuracy
from visatb.cli import run
from visatb.errors import InputError

Questions = Mapping[str, Mapping[str, Any]]


def score(answers: Answers, annotations: Mapping[str, Mapping[str, Any]], source: str | os.PathLike) -> Scores:
    """VQA accuracy in percent, with that of every question type and answer type."""
    entries = []
    for line in in_order_of(list(annotations), answers, source):
        annotation = annotations[line.key]
        references = reference_answers(annotation, f"{source}: question_id {line.question_id!r}")
        groups = {name: annotation.get(name) for name in ("question_type", "answer_type")}
        value = vqa_accuracy(normalize_m4c(line.text), references)
        entries.append(entry(line, value, references, malformed=not line.text.strip(), **groups))
    kinds = percent_by(entries, "answer_type")
    total = percent(entries)
    summary = [f"Overall accuracy: {total:.2f}", *(f"{kind}: {value:.2f}" for kind, value in kinds.items())]
    types = percent_by(entries, "question_type")
    return outcome("vqa_accuracy", total, entries, summary, answer_type=kinds, question_type=types)


def reference_answers(annotation: Mapping[str, Any], where: str) -> Sequence[str]:
    """The people's answers of an annotation of VQAv2 or VizWiz."""
    references = get(annotation, "answers", list, where)
    texts = [one.get("answer") if isinstance(one, dict) else None for one in references]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(f'{where}: answers must be a list of {{"answer": text}}. Give the official file.')
    return texts


def read_annotations(path: str | os.PathLike) -> dict[str, Mapping[str, Any]]:
    """The annotations of an official file (v2_mscoco_val2014_annotations.json) by question_id."""
    return by_id(numbered(get(read_object(path), "annotations", list, str(path)), path))


def upload(
    answers: Answers, questions: Questions, source: str | os.PathLike, all_questions: Questions | None = None
) -> str:
    """What VQAv2's server takes: [{"question_id", "answer"}], answers in the form of `normalize_m4c`.

    `all_questions` is what the server wants; those that were not asked (all of test beside test-dev) get "".
    """
    lines = {line.key: line for line in in_order_of(list(questions), answers, source)}
    wanted = all_questions or questions
    strange = next((key for key in lines if key not in wanted), None)
    if strange is not None:
        raise InputError(f"{source}: question_id {strange!r} is not among all questions. Give files of one split.")
    return json.dumps(
        [
            {"question_id": record["question_id"], "answer": normalize_m4c(lines[key].text) if key in lines else ""}
            for key, record in wanted.items()
        ]
    )


def submit(answers: Answers, question_file: str, output: str, all_question_file: str | None = None) -> Evaluation:
    """The `upload` of the answers to LLaVA's question lines."""
    everything = all_question_file and by_id(read_lines(all_question_file))
    content = upload(answers, by_id(read_lines(question_file)), question_file, everything)
    return submission(answers, output, content, question_file, all_question_file)


def evaluate(answers: Answers, annotation_file: str) -> Evaluation:
    """The scores against the official annotations."""
    return Evaluation(answers.source, score(answers, read_annotations(annotation_file), annotation_file))


_ALL, _VAL = "llava_vqav2_mscoco_test2015.jsonl", "v2_mscoco_val2014_annotations.json"
BENCHMARKS = {
    "vqav2": ZeroShot(
        "",
        ("vqav2",),
        "{split}.jsonl",
        "test2015",
        {"{split}.jsonl": LLAVA_FILES, _ALL: LLAVA_FILES, "test2015": COCO.format("test2015")},
        evaluated(
            submit,
            {"output": "answers_upload/{split}/{model}.json"},
            question_file="{split}.jsonl",
            all_question_file=_ALL,
        ),
        "answers/{split}/{model}/merge.jsonl",
        split="llava_vqav2_mscoco_test-dev2015",
    ),
    "vqav2_val": ZeroShot(
        "VQAv2",
        ("vqav2",),
        "{split}.jsonl",
        "val2014",
        {"{split}.jsonl": LIKE_TEST, _VAL: "https://visualqa.org/download.html", "val2014": COCO.format("val2014")},
        evaluated(evaluate, annotation_file=_VAL),
        "answers/{split}/{model}/merge.jsonl",
        split="llava_vqav2_mscoco_val2014",
    ),
}

FLAGS = {"annotation_file": "official annotations of the split"}
main = scorer("vqav2", __doc__, f"--annotation-file {_VAL}", "VQAv2", evaluate, FLAGS)

if __name__ == "__main__":
    run(main)
