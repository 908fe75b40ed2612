"""TextVQA accuracy as LLaVA computes it: M4C's evaluator on the official validation annotations (TextVQA_0.5.1_val).

A line is matched by image and question, which is read out of LLaVA's prompt, with or without reference OCR tokens.
"""

import os
import re
from collections.abc import Sequence

from eval.scores import Scores, entry, percent
from eval.zero_shot.answers import AnswerLine, Answers, get, in_order_of, numbered, outcome, read_object
from eval.zero_shot.command import scorer
from eval.zero_shot.definition import LLAVA_FILES, Evaluation, ZeroShot, evaluated
from eval.zero_shot.vqa_text import accuracy, normalize_m4c
from visatb.cli import run
from visatb.errors import InputError

_REFERENCES = 10
_OLD_PROMPT = re.compile(r"Question: (.*?) Short answer:", re.DOTALL)
_OCR = "Reference OCR token:"

Key = tuple[str, str]


def question_of(line: AnswerLine) -> str:
    """The question of a prompt, lower-cased.

    Raises:
        InputError: if the prompt has none of LLaVA's three layouts.
    """
    rows = line.prompt.split("\n")
    if line.prompt.startswith("OCR tokens: "):
        match = _OLD_PROMPT.search(line.prompt)
        question = match[1] if match else None
    elif f"{_OCR} " in line.prompt and len(rows) == 3:
        question = rows[1] if rows[0].startswith(_OCR) else rows[0]
    else:
        question = rows[0] if len(rows) == 2 else None
    if question is None:
        raise InputError(
            f"{line.where}: prompt must be a question and its instruction on two lines, or three with {_OCR!r}. "
            "Ask LLaVA's question file."
        )
    return question.lower()


def score(answers: Answers, annotations: Sequence[tuple[Key, list[str]]], source: str | os.PathLike) -> Scores:
    """Accuracy in percent. Of two annotations with the same image and question the last serves both, as in LLaVA."""
    references = dict(annotations)
    keys = [key for key, _ in annotations]
    lines = in_order_of(keys, answers, source, lambda line: (line.key, question_of(line)))
    entries = []
    for key, line in zip(keys, lines, strict=True):
        value = accuracy(normalize_m4c(line.text), [normalize_m4c(text) for text in references[key]])
        entries.append(entry(line, value, references[key], malformed=not line.text.strip(), question=key[1]))
    total = percent(entries)
    return outcome("vqa_accuracy", total, entries, [f"Samples: {len(entries)}", f"Accuracy: {total:.2f}%"])


def read_annotations(path: str | os.PathLike) -> list[tuple[Key, list[str]]]:
    """((image_id, lower-cased question), the ten answers) of every record of the official file."""
    annotations = []
    for where, record in numbered(get(read_object(path), "data", list, str(path)), path):
        references = get(record, "answers", list, where)
        if len(references) != _REFERENCES or not all(isinstance(text, str) for text in references):
            raise InputError(f"{where}: answers must be {_REFERENCES} texts. Give the official file.")
        key = (get(record, "image_id", str, where), get(record, "question", str, where).lower())
        annotations.append((key, references))
    return annotations


def evaluate(answers: Answers, annotation_file: str) -> Evaluation:
    """The scores against the official annotations."""
    return Evaluation(answers.source, score(answers, read_annotations(annotation_file), annotation_file))


BENCHMARKS = {
    "textvqa": ZeroShot(
        "TextVQA",
        ("textvqa",),
        "llava_textvqa_val_v051_ocr.jsonl",
        "train_images",
        {
            "llava_textvqa_val_v051_ocr.jsonl": LLAVA_FILES,
            "TextVQA_0.5.1_val.json": "https://dl.fbaipublicfiles.com/textvqa/data/TextVQA_0.5.1_val.json",
            "train_images": "https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
        },
        evaluated(evaluate, annotation_file="TextVQA_0.5.1_val.json"),
    )
}

FLAGS = {"annotation_file": "official annotations: TextVQA_0.5.1_val.json"}
main = scorer("textvqa", __doc__, "--annotation-file TextVQA_0.5.1_val.json", "TextVQA", evaluate, FLAGS)

if __name__ == "__main__":
    run(main)
