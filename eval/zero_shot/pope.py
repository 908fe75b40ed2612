"""POPE: accuracy, precision, recall, F1 and share of yes of each split, and their means over the splits.

As in the official evaluate.py (https://github.com/AoiDragon/POPE) an answer is "no" if its first sentence has the word
`No`, `no` or `not`, and "yes" otherwise, whatever else it says. `score` is the mean F1 in percent, which LLaVA-1.5
reports; the mean accuracy stands beside it.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.scores import Entry, Scores, entry
from eval.zero_shot.answers import Answers, by_id, get, in_order_of, outcome, read_lines
from eval.zero_shot.command import scorer
from eval.zero_shot.definition import COCO, LLAVA_FILES, Evaluation, ZeroShot, evaluated
from visatb.cli import run
from visatb.errors import InputError
from visatb.records import Record

_NAME = "coco_pope_"
_COMMIT = "e3e39262c85a6a83f26cf5094022a782cb0df58d"  # the version that LLaVA's questions were made from
_NO_LETTER = re.compile(r"[\W_]+")
_MEANS = ("accuracy", "precision", "recall", "f1", "yes_ratio")


def parse_answer(text: str) -> str:
    """ "yes" or "no", by the official rule."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def is_unread(text: str) -> bool:
    """Whether an answer counts as "yes" only because the rule finds no "no" in it: `NO`, `Not really`, `a dog`."""
    words = set(_NO_LETTER.split(text.split(".")[0].lower()))
    return parse_answer(text) == "yes" and ("yes" not in words or bool({"no", "not"} & words))


def score(
    answers: Answers, questions: Mapping[str, Record], labels: Mapping[str, Sequence[Record]], source: str | os.PathLike
) -> Scores:
    """The scores of every split and their means, in percent.

    Args:
        questions: LLaVA's question lines by question_id; `category` is the split.
        labels: split -> the official lines, in the order of the split's questions.
    """
    entries: dict[str, list[Entry]] = {split: [] for split in labels}
    for line in in_order_of(list(questions), answers, source):
        where = f"{source}: question_id {line.question_id!r}"
        split = get(questions[line.key], "category", str, where)
        if split not in labels:
            raise InputError(f"{where}: category {split!r} has no file {_NAME}{split}.json. Add it to the annotations.")
        label = labels[split][len(entries[split])] if len(entries[split]) < len(labels[split]) else None
        truth = _label_of(label, questions[line.key], split, where)
        said = parse_answer(line.text)
        unread = is_unread(line.text)
        entries[split].append(entry(line, said == truth, truth, malformed=unread, split=split, answer=said))
    for split, found in entries.items():
        if len(found) != len(labels[split]):
            raise InputError(
                f"{source}: has {len(found)} questions of {split}, but there are {len(labels[split])} labels. "
                f"LLaVA's questions need POPE's files of commit {_COMMIT}."
            )
    splits = {split: split_scores(found) for split, found in entries.items()}
    means = {f"mean_{name}": sum(one[name] for one in splits.values()) / len(splits) for name in _MEANS}
    summary = []
    for split, one in splits.items():
        summary += [f"Category: {split}, # samples: {len(entries[split])}", "TP\tFP\tTN\tFN"]
        summary.append("\t".join(str(one[name]) for name in ("tp", "fp", "tn", "fn")))
        summary += [f"{name}: {one[name]:.2f}" for name in _MEANS]
    summary.append(f"mean F1 {means['mean_f1']:.2f}, mean accuracy {means['mean_accuracy']:.2f}")
    every = [one for found in entries.values() for one in found]
    return outcome("mean_f1", means["mean_f1"], every, summary, unread='count as "yes"', splits=splits, **means)


def split_scores(entries: Sequence[Entry]) -> dict[str, Any]:
    """Counts of one split, and accuracy, precision, recall, F1 and share of yes in percent; 0 where undefined."""
    pairs = [(one["answer"], one["truth"]) for one in entries]
    counts = {
        "tp": pairs.count(("yes", "yes")),
        "fp": pairs.count(("yes", "no")),
        "tn": pairs.count(("no", "no")),
        "fn": pairs.count(("no", "yes")),
    }
    tp, fp, tn, fn = counts.values()
    return counts | {
        "accuracy": _share(tp + tn, len(pairs)),
        "precision": _share(tp, tp + fp),
        "recall": _share(tp, tp + fn),
        "f1": _share(2 * tp, 2 * tp + fp + fn),
        "yes_ratio": _share(tp + fp, len(pairs)),
    }


def read_labels(folder: str | os.PathLike) -> dict[str, list[Record]]:
    """The official lines of every split: `coco_pope_<split>.json` (JSON Lines) in a folder.

    Raises:
        InputError: no folder or no such file, another file among them.
    """
    files = sorted(Path(folder).glob(f"{_NAME}*.json"))
    if not files:
        raise InputError(f"{folder}: has no {_NAME}<split>.json. Give the folder output/coco of POPE.")
    labels: dict[str, list[Record]] = {}
    for file in files:
        lines = read_lines(file)
        for where, record in lines:
            if record.get("label") not in ("yes", "no"):
                raise InputError(f"{where}: label must be yes or no, got {record.get('label')!r}. Give POPE's file.")
        labels[file.stem.removeprefix(_NAME)] = [record for _, record in lines]
    return labels


def _label_of(label: Record | None, question: Record, split: str, where: str) -> str:
    """The label, if it is that of this question: where lines were lost, all that follow would be judged wrongly."""
    if label is not None and _asked(label) == _asked(question):
        return label["label"]
    got = "no label is left" if label is None else f"the label is of {_asked(label)}"
    raise InputError(
        f"{where}: is {_asked(question)} of {split}, but {got}. "
        f"LLaVA's questions need POPE's files of commit {_COMMIT}."
    )


def _asked(record: Record) -> tuple[str, str]:
    """Image and question; POPE misspells `image` in some files and not in others."""
    text = str(record.get("text", "")).split("\n")[0].strip()
    return str(record.get("image", "")), text.replace("imange", "image")


def _share(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


def evaluate(answers: Answers, annotation_dir: str, question_file: str) -> Evaluation:
    """The scores of the answers to LLaVA's question lines against POPE's labels."""
    questions = by_id(read_lines(question_file))
    return Evaluation(answers.source, score(answers, questions, read_labels(annotation_dir), question_file))


BENCHMARKS = {
    "pope": ZeroShot(
        "POPE",
        ("pope",),
        "llava_pope_test.jsonl",
        "val2014",
        {
            "llava_pope_test.jsonl": LLAVA_FILES,
            "coco": f"https://github.com/AoiDragon/POPE/tree/{_COMMIT}/output/coco",
            "val2014": COCO.format("val2014"),
        },
        evaluated(evaluate, annotation_dir="coco", question_file="llava_pope_test.jsonl"),
    )
}

FLAGS = {"annotation_dir": "folder of POPE's coco_pope_<split>.json", "question_file": "LLaVA's llava_pope_test.jsonl"}
EXAMPLE = "--annotation-dir coco --question-file llava_pope_test.jsonl"
main = scorer("pope", __doc__, EXAMPLE, "POPE", evaluate, FLAGS)

if __name__ == "__main__":
    run(main)
