"""MM-Vet: the metric file out of the grades that the official GPT-4 evaluator writes.

The evaluator (https://github.com/yuweihao/MM-Vet, mm-vet_evaluator.ipynb) reads what
`llava.eval.scorers.submissions mmvet` writes (`<model>.json`) and leaves `<model>_gpt-4-grade-<n>runs.json` beside it:

    {"v1_0": {"model": [...], "content": [...], "score": [0.0, 0.1, ...]}, ...}      one score in [0, 1] per run

`score` is the mean over runs and questions in percent; with the official mm-vet.json also that of every capability.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava.eval.scorers.common import (
    Answers,
    Scores,
    add_outputs,
    get,
    outcome,
    percent,
    read_answers,
    read_object,
    report,
)
from llava.eval.scorers.submissions import mmvet_answers
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import refuse_unwritable

_NAME = re.compile(r"(?P<model>.+)_gpt-[^_]*-grade-\d+runs\.json")


def score(grades: Mapping[str, Any], questions: Mapping[str, Any] | None, source: str | os.PathLike) -> Scores:
    """The total in percent, of every run and of every capability.

    Args:
        grades: of the official evaluator.
        questions: official mm-vet.json: id -> {"capability": ["rec", ...], ...}; None leaves out the capabilities.
        source: file of the grades, for messages.

    Raises:
        InputError: a grade of another shape, questions that are not exactly those graded.
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
        source: their file; its name tells which file beside it the evaluator read.
        answers: what should have been graded.

    Raises:
        InputError: grades of other questions; the file that was graded holds other answers or, if it is gone, is named
            after another model.
    """
    given = mmvet_answers(answers)
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


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = ArgumentParser(
        description=__doc__,
        epilog="example:\n  python -m llava.eval.scorers.mmvet --grade-file results/my-model_gpt-4-grade-1runs.json "
        "--annotation-file mm-vet.json --answers-file answers.jsonl --output metrics/my-model/MM-Vet.json",
    )
    parser.add_argument("--grade-file", required=True, help="grades of the official evaluator (JSON)")
    parser.add_argument("--annotation-file", help="official mm-vet.json, for the capabilities")
    parser.add_argument(
        "--answers-file", "--result-file", dest="answers_file", help="LLaVA's answer lines: refuse grades of others"
    )
    parser.add_argument("--generator", help="name of the model in the metric file; that of the answers if left out")
    add_outputs(parser, "MM-Vet")
    options = parser.parse_args(argv)
    inputs = [options.grade_file, options.annotation_file, options.answers_file]
    refuse_unwritable([options.output, options.per_record], inputs)
    questions = read_object(options.annotation_file) if options.annotation_file is not None else None
    grades, generator = read_object(options.grade_file), options.generator
    if options.answers_file is not None:
        answers = read_answers(options.answers_file)
        refuse_grades_of_others(grades, options.grade_file, answers)
        if None not in (generator, answers.generator) and generator != answers.generator:
            raise InputError(f"--generator must be {answers.generator!r}, whose answers they are, got {generator!r}.")
        generator = generator or answers.generator
    return report(score(grades, questions, options.grade_file), generator, Path(options.grade_file), options)


if __name__ == "__main__":
    run(main)
