"""VQAv2 accuracy on splits whose annotations are public (val).

Answers are scored as they would be submitted (LLaVA's `convert_vqav2_for_submission`), by the rules of the VQA
evaluation (https://visualqa.org/evaluation.html). The test splits go to the server: see
`llava.eval.scorers.submissions`.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from llava.eval.scorers.common import (
    Answers,
    Scores,
    by_id,
    entry,
    get,
    in_order_of,
    numbered,
    outcome,
    percent,
    percent_by,
    read_object,
    score_annotated,
    scorer_parser,
)
from llava.eval.scorers.vqa_text import normalize_m4c, vqa_accuracy
from visatb.cli import run
from visatb.errors import InputError


def score(answers: Answers, annotations: Mapping[str, Mapping[str, Any]], source: str | os.PathLike) -> Scores:
    """VQA accuracy in percent, with that of every question type and answer type.

    Args:
        answers: one to each annotation.
        annotations: of `read_annotations`.
        source: their file, for messages.

    Raises:
        InputError: missing or further answers, an annotation without answers.
    """
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


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = scorer_parser("vqav2", __doc__, "--annotation-file v2_mscoco_val2014_annotations.json", "VQAv2")
    parser.add_argument("--annotation-file", required=True, help="official annotations of the split")
    return score_annotated(parser, argv, read_annotations, score)


if __name__ == "__main__":
    run(main)
