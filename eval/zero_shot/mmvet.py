"""MM-Vet: the metric file out of the grades that the official GPT-4 evaluator writes.

The evaluator (https://github.com/yuweihao/MM-Vet, mm-vet_evaluator.ipynb) reads what
`eval.zero_shot.submissions mmvet` writes (`<model>.json`) and leaves `<model>_gpt-4-grade-<n>runs.json` beside it:

    {"v1_0": {"model": [...], "content": [...], "score": [0.0, 0.1, ...]}, ...}      one score in [0, 1] per run

`score` is the mean over runs and questions in percent; with the official mm-vet.json also that of every capability.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.scores import Scores, Source, percent
from eval.zero_shot.answers import Answers, by_id, get, in_order_of, outcome, read_lines, read_object, unique
from eval.zero_shot.command import scorer
from eval.zero_shot.definition import LLAVA_FILES, Evaluation, Place, ZeroShot, submission
from visatb.cli import run
from visatb.errors import InputError

_NAME = re.compile(r"(?P<model>.+)_gpt-[^_]*-grade-\d+runs\.json")


def score(grades: Mapping[str, Any], questions: Mapping[str, Any] | None, source: str | os.PathLike) -> Scores:
    """The total in percent, of every run and of every capability.

    `questions` is the official mm-vet.json: id -> {"capability": ["rec", ...], ...}; None leaves out the capabilities.
    """
    if not grades or (questions is not None and questions.keys() != grades.keys()):
        odd = sorted((questions or {}).keys() ^ grades.keys())[:1] or ["no question"]
        raise InputError(f"{source}: {odd[0]} is not in both grades and questions. Run the evaluator to its end.")
    entries = []
    runs = None
    for key, grade in grades.items():
        where = f"{source}: {key}"
        found = get(grade if isinstance(grade, dict) else {}, "score", list, where)
        whole = found and all(isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x <= 1 for x in found)
        if not whole or len(found) != (runs or len(found)):
            raise InputError(f"{where}: score must be a number from 0 to 1 for each run. Run the evaluator again.")
        runs = len(found)
        skills = _capabilities(questions[key], key) if questions is not None else []
        entries.append(
            {"question_id": key, "score": sum(found) / runs, "malformed": False, "runs": found, "of": skills}
        )
    skills = dict.fromkeys(skill for one in entries for skill in one["of"])
    by_skill = {skill: percent([one for one in entries if skill in one["of"]]) for skill in skills}
    by_run = [100 * sum(one["runs"][n] for one in entries) / len(entries) for n in range(runs or 0)]
    total = percent(entries)
    summary = [*(f"{skill}: {value:.1f}" for skill, value in by_skill.items()), f"total: {total:.1f}"]
    return outcome("gpt4_score", total, entries, summary, capability=by_skill, runs=by_run)


def grades_of(model: str, folder: str | os.PathLike) -> list[Path]:
    """The files in a folder that are named as the evaluator's grades of a model, by name."""
    names = ((file, _NAME.fullmatch(file.name)) for file in Path(folder).glob("*.json"))
    return sorted(file for file, name in names if name and name["model"] == model)


def refuse_grades_of_others(grades: Mapping[str, Any], source: str | os.PathLike, answers: Answers) -> None:
    """Refuse grades that were not given to these answers.

    Args:
        grades: of the official evaluator, which keeps no answer in them.
        source: their file, named after the file beside it that the evaluator read.
        answers: what should have been graded.

    Raises:
        InputError: grades of other questions; the file that was graded holds other answers or, if it is gone, is named
            after another model.
    """
    given = graded_answers(answers)
    odd = sorted(given.keys() ^ grades.keys())
    if odd:
        raise InputError(f"{source}: {odd[0]} is not in both grades and {answers.path}. Run the evaluator to its end.")
    name = _NAME.fullmatch(Path(source).name)
    graded = Path(source).with_name(f"{name['model']}.json") if name else None
    if graded is None or not graded.exists():
        same = name is None or answers.generator in (None, name["model"])
    else:
        same = read_object(graded) == given
    if not same:
        raise InputError(
            f"{source}: grades other answers than {answers.path}. Move it away and have the answers graded again."
        )


def _capabilities(question: Any, key: str) -> list[str]:
    found = get(question if isinstance(question, dict) else {}, "capability", list, f"question {key}")
    return [str(skill) for skill in found]


def graded_answers(answers: Answers) -> dict[str, str]:
    """The answers by the ids of MM-Vet's evaluator."""
    return {f"v1_{line.question_id}": line.text for line in unique(answers).lines}


def upload(answers: Answers) -> str:
    """What MM-Vet's evaluator takes: {"v1_<question_id>": answer}."""
    return json.dumps(graded_answers(answers), indent=2)


def submit(answers: Answers, question_file: str, output: str) -> Evaluation:
    """The `upload` of the answers to exactly the questions of LLaVA's file."""
    in_order_of(list(by_id(read_lines(question_file))), answers, question_file)
    return submission(answers, output, upload(answers), question_file)


def evaluate(
    grade_file: str, answers: Answers | None = None, annotation_file: str | None = None, generator: str | None = None
) -> Evaluation:
    """The scores of a file of grades, by capability if mm-vet.json is given; refuses grades of other answers."""
    questions = read_object(annotation_file) if annotation_file is not None else None
    grades = read_object(grade_file)
    if answers is not None:
        refuse_grades_of_others(grades, grade_file, answers)
        if None not in (generator, answers.generator) and generator != answers.generator:
            raise InputError(f"--generator must be {answers.generator!r}, whose answers they are, got {generator!r}.")
        generator = generator or answers.generator
    return Evaluation(Source(Path(grade_file), generator), score(grades, questions, grade_file))


def _evaluations(place: Place, answers: Answers) -> list[Evaluation]:
    """The score where the official evaluator's grades exist already, and the file that it grades.

    In this order: grades are compared with the file that they were given to before it is written again.
    """
    found = [submit(answers, place.data("llava-mm-vet.jsonl"), place.made("results/{model}.json"))]
    grades = grades_of(place.model, place.made("results"))
    if grades:
        official = place.data("mm-vet.json")
        found.insert(0, evaluate(str(grades[-1]), answers, official if Path(official).exists() else None))
    return found


BENCHMARKS = {
    "mmvet": ZeroShot(
        "MM-Vet",
        ("mm-vet",),
        "llava-mm-vet.jsonl",
        "images",
        {
            "llava-mm-vet.jsonl": LLAVA_FILES,
            "images": "https://github.com/yuweihao/MM-Vet/releases/download/v1/mm-vet.zip",
        },
        _evaluations,
        max_new_tokens=1024,
    )
}


FLAGS = {
    "grade_file": "grades of the official evaluator (JSON)",
    "annotation_file": "official mm-vet.json, for the capabilities",
    "answers": ("LLaVA's answer lines: refuse grades of others", "--answers-file", "--result-file"),
    "generator": "name of the model in the metric file; that of the answers if left out",
}
EXAMPLE = "--grade-file results/my-model_gpt-4-grade-1runs.json --annotation-file mm-vet.json"
main = scorer("mmvet", __doc__, EXAMPLE, "MM-Vet", evaluate, FLAGS)

if __name__ == "__main__":
    run(main)
