"""ScienceQA accuracy on a split of the official problems.json, by subject, context and grade.

The choice is read from an answer by the rule of LLaVA's published eval_science_qa; one that cannot be read is -1 and
wrong, never drawn by chance. The groups are those of the official evaluate_acc.py
(https://github.com/lupantech/ScienceQA). `score` is the accuracy on questions with an image, which LLaVA-1.5 reports.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.scores import Entry, Scores, entry, percent, percent_by
from eval.zero_shot.answers import AnswerLine, Answers, get, in_order_of, outcome, read_object
from eval.zero_shot.command import scorer
from eval.zero_shot.definition import LLAVA_FILES, Evaluation, ZeroShot, evaluated
from visatb.cli import run
from visatb.errors import InputError
from visatb.records import IMAGE_TOKEN

LETTERS = "ABCDE"
# As published: the period is not escaped, and stands for any character but a line break ("The answer is Boston").
_STATED = re.compile(r"The answer is ([A-Z]).")
_GRADE = re.compile(r"grade(\d+)")


def parse_choice(text: str, choices: int) -> int:
    """The place of the chosen option, from 0; -1 if the answer names none of the question's options.

    The answer is a letter and nothing else, begins with a letter, a period and a space, or holds `The answer is X`
    with one more character behind it exactly once.
    """
    if text in tuple(LETTERS):
        letter = text
    elif len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        letter = text[0]
    else:
        stated = _STATED.findall(text)
        letter = stated[0] if len(stated) == 1 else ""
    place = LETTERS.find(letter) if letter else -1
    return place if place < choices else -1


def score(answers: Answers, problems: Mapping[str, Any], source: str | os.PathLike) -> Scores:
    """Accuracy in percent: of questions with an image (`score`), of all, and of every group.

    `problems` holds the official records of the split alone, by id.
    """
    lines = in_order_of(list(problems), answers, source)
    entries = [_entry(line, problems[line.key], f"{source}: problem {line.key!r}") for line in lines]
    with_image = [one for one in entries if one["image"]]
    groups = {
        "subject": percent_by(entries, "subject"),
        "context": {
            name: percent(found)
            for name, found in (
                ("text", [one for one in entries if one["hint"]]),
                ("image", with_image),
                ("none", [one for one in entries if not one["hint"] and not one["image"]]),
            )
            if found
        },
        "grade": percent_by(entries, "grade"),
    }
    total = percent(entries)
    right = sum(1 for one in entries if one["score"])
    line = f"Total: {len(entries)}, Correct: {right}, Accuracy: {total:.2f}%"
    if with_image:
        line += f", IMG-Accuracy: {percent(with_image):.2f}%"
    summary = [line, *(f"  {g} {name}: {value:.2f}%" for g, found in groups.items() for name, value in found.items())]
    metric, value = ("image_accuracy", percent(with_image)) if with_image else ("accuracy", total)
    return outcome(metric, value, entries, summary, accuracy=total, n_image=len(with_image), **groups)


def read_problems(folder: str | os.PathLike, split: str = "test") -> dict[str, Any]:
    """The problems of a split, by id: problems.json and pid_splits.json in the official folder.

    Raises:
        InputError: an unknown split, an id that has no problem.
    """
    splits, problems = read_object(Path(folder) / "pid_splits.json"), read_object(Path(folder) / "problems.json")
    if not isinstance(splits.get(split), list) or not splits[split]:
        raise InputError(f"{folder}/pid_splits.json: has no split {split!r}; it has {', '.join(splits)}.")
    absent = [identifier for identifier in splits[split] if not isinstance(problems.get(str(identifier)), dict)]
    if absent:
        raise InputError(f"{folder}/problems.json: has no problem {absent[0]!r} of {split}. Give the official file.")
    return {str(identifier): problems[str(identifier)] for identifier in splits[split]}


def llava_results(scores: Scores) -> tuple[dict[str, Any], dict[str, Any]]:
    """What LLaVA's script writes: the analysis of every question (--output-file) and the results (--output-result).

    The official evaluate_acc.py reads the second.
    """
    analysis: dict[str, list] = {"correct": [], "incorrect": []}
    for one in scores["per_record"]:
        place = one["choice"]
        analysis["correct" if one["score"] else "incorrect"].append(
            {
                "question_id": str(one["question_id"]),
                "parsed_ans": LETTERS[place] if place >= 0 else "FAILED",
                "ground_truth": one["truth"],
                "question": one["prompt"],
                "pred": one["prediction"],
                "is_multimodal": IMAGE_TOKEN in one["prompt"],
            }
        )
    results = {
        "acc": scores["details"]["accuracy"],
        "correct": len(analysis["correct"]),
        "count": scores["n"],
        "results": {str(one["question_id"]): one["choice"] for one in scores["per_record"]},
        "outputs": {str(one["question_id"]): one["prediction"] for one in scores["per_record"]},
    }
    return analysis, results


def _entry(line: AnswerLine, problem: Mapping[str, Any], where: str) -> Entry:
    choices = get(problem, "choices", list, where)
    truth = get(problem, "answer", int, where)
    if not 0 <= truth < min(len(choices), len(LETTERS)):
        raise InputError(f"{where}: answer must be one of {len(choices)} choices, got {truth}. Give the official file.")
    place = parse_choice(line.text, len(choices))
    grade = _GRADE.fullmatch(str(problem.get("grade", "")))
    groups = {
        "subject": problem.get("subject"),
        "hint": bool(problem.get("hint")),
        "image": bool(problem.get("image")),
        "grade": None if grade is None else ("1-6" if int(grade[1]) <= 6 else "7-12"),
        "choice": place,
        "prompt": line.prompt,
    }
    return entry(line, place == truth, LETTERS[truth], malformed=place < 0, **groups)


def evaluate(
    answers: Answers,
    base_dir: str,
    split: str = "test",
    output_file: str | None = None,
    output_result: str | None = None,
) -> Evaluation:
    """The scores on a split of the official folder, and what LLaVA writes if files for it are named."""
    scores = score(answers, read_problems(base_dir, split), Path(base_dir) / "problems.json")
    contents = zip([output_file, output_result], llava_results(scores), strict=True)
    files = {path: json.dumps(content, indent=1, ensure_ascii=False) + "\n" for path, content in contents if path}
    return Evaluation(answers.source, scores, files)


_SITE = "https://github.com/lupantech/ScienceQA"
BENCHMARKS = {
    "sqa": ZeroShot(
        "SQA",
        ("scienceqa",),
        "llava_test_CQM-A.json",
        "images/test",
        {"llava_test_CQM-A.json": LLAVA_FILES, "problems.json": _SITE, "pid_splits.json": _SITE, "images/test": _SITE},
        evaluated(
            evaluate,
            {"output_file": "answers/{model}_output.jsonl", "output_result": "answers/{model}_result.json"},
            base_dir=".",
        ),
        reader="scienceqa",
        reader_options={"single_pred_prompt": True},
        max_new_tokens=1024,
    )
}


FLAGS = {
    "base_dir": "folder of problems.json and pid_splits.json",
    "split": "split of pid_splits.json",
    "output_file": "LLaVA's analysis of right and wrong answers (JSON)",
    "output_result": "LLaVA's results (JSON), which the official evaluate_acc.py reads",
}
main = scorer("scienceqa", __doc__, "--base-dir scienceqa", "SQA", evaluate, FLAGS, "output_file", "output_result")

if __name__ == "__main__":
    run(main)
