"""Answer files: reading them, and refusing those whose score would mean something else than it seems to.

The format is that of inference_visatb.py: annotation records with `conversations[1].generative_value` (the prediction)
and `generator` (the model that made it).
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.scores import Source
from visatb.errors import InputError, shown
from visatb.records import Record, name_of, omitted_file, read_records


@dataclass(frozen=True)
class Answer:
    """One answered record.

    Attributes:
        position: its place in the file, from 0.
        identifier: its `id`; None if it has none.
        where: file and record, for messages.
        truth: `conversations[1].value` as it stands in the file; each metric checks its own form.
        prediction: `conversations[1].generative_value`; None if that is absent or no text (counts as wrong).
        record: the whole record.
    """

    position: int
    identifier: str | int | None
    where: str
    truth: Any
    prediction: str | None
    record: Record = field(default_factory=dict, repr=False)

    @property
    def question(self) -> str:
        """`conversations[0].value`."""
        return str(self.record["conversations"][0].get("value", ""))

    @property
    def identity(self) -> dict[str, Any]:
        """The fields of a score entry that identify the record."""
        return {"position": self.position, "id": self.identifier}


@dataclass(frozen=True)
class AnswerFile:
    """The answers of one model to one set of questions.

    Attributes:
        path: the file.
        answers: in file order, at least one.
        generator: the model's name; None if the file has none.
        tasks: the distinct task names, in order of appearance; empty if the file has none.
        omitted: number of records that inference left out (`--on-bad-image skip`).
    """

    path: Path
    answers: tuple[Answer, ...]
    generator: str | None
    tasks: tuple[str, ...]
    omitted: int = 0

    @property
    def task(self) -> str | None:
        """The one task of the file; None if it has several or none."""
        return self.tasks[0] if len(self.tasks) == 1 else None

    def of_task(self, task: str) -> "AnswerFile":
        """The answers to one task of a file that holds several; all of a file that holds one or names none.

        Raises:
            InputError: a file of several tasks without this one.
        """
        if len(self.tasks) < 2:
            return self
        answers = tuple(answer for answer in self.answers if answer.record.get("task") == task)
        if not answers:
            raise InputError(
                f"{self.path}: task must be {task!r} in some record, got {', '.join(self.tasks)}. Name its own file."
            )
        return replace(self, answers=answers, tasks=(task,))

    @property
    def source(self) -> Source:
        """What is scored, with notes on omitted records and on several tasks."""
        notes = []
        if self.omitted:
            notes.append(f"{self.omitted} records were left out by inference and are not scored")
        if len(self.tasks) > 1:
            notes.append(f"the file holds {len(self.tasks)} tasks ({', '.join(self.tasks)}), scored as one")
        return Source(self.path, self.generator, self.task, self.omitted, tuple(notes))


def read_answers(
    answers_file: str | os.PathLike, question_file: str | os.PathLike | None = None, key_by_position: bool = False
) -> AnswerFile:
    """Read an answer file and check that it is whole.

    Args:
        answers_file: JSON list or JSON Lines.
        question_file: the annotation file that was asked. If None, the one that fits the answer file's name in the
            same folder is taken (see `question_file_beside`); where there is none, nothing is compared.
            Records that the list of omissions beside the answer file names need no answer.
        key_by_position: identify records by their position in the file, so that ids may repeat or be absent.

    Returns:
        The answers.

    Raises:
        InputError: naming file, record and field. No record; a record without a pair of turns; an id that is absent,
            repeated or neither text nor integer; several models in one file; no prediction at all; records that are
            not exactly those of the question file.
    """
    file = Path(answers_file)
    records = read_records(file)
    answers = tuple(_answer(record, n, file) for n, record in enumerate(records))
    if not any("generative_value" in record["conversations"][1] for record in records):
        raise InputError(
            f"{file}: expected conversations[1].generative_value (the prediction) in the records, got "
            f"{_fields(records[0])} in record 0. Give the answer file, not the question file (docs/data.md)."
        )
    if not key_by_position:
        _refuse_repeated_ids(answers)
    generators = _texts(records, "generator", file)
    if len(set(generators)) > 1:
        at = next(n for n, name in enumerate(generators) if name != generators[0])
        raise InputError(
            f"{answers[at].where}: generator is {generators[at]!r}, but {generators[0]!r} in record 0. "
            "Score the answers of one model at a time."
        )
    tasks = tuple(dict.fromkeys(name for name in _texts(records, "task", file) if name is not None))
    omitted = _omitted_positions(file)
    answer_file = AnswerFile(file, answers, generators[0], tasks, len(omitted))
    asked = question_file if question_file is not None else question_file_beside(answer_file)
    if asked is not None:
        _refuse_other_records(records, file, Path(asked), key_by_position, omitted)
    return answer_file


def question_file_beside(answers: AnswerFile) -> Path | None:
    """The question file in the answer file's folder, found by name; None if there is none.

    inference_visatb.py names its answers `{question file stem, _ to -}_{model name, _ to -}.json`.
    """
    if answers.generator is None:
        return None
    ending = "_" + answers.generator.replace("_", "-")
    if not answers.path.stem.endswith(ending):
        return None
    stem = answers.path.stem.removesuffix(ending)
    for candidate in sorted(answers.path.parent.iterdir()):
        is_other_json = candidate.suffix in (".json", ".jsonl") and candidate.name != answers.path.name
        if is_other_json and candidate.is_file() and candidate.stem.replace("_", "-") == stem:
            return candidate
    return None


def _answer(record: Record, position: int, file: Path) -> Answer:
    where = f"{file}: {name_of(record, position)}"
    turns = record.get("conversations")
    if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, dict) for turn in turns[:2]):
        other = "LLaVA's answer lines have scorers of their own (docs/evaluation.md)"
        remedy = other if "text" in record and "question_id" in record else "Fix the record"
        raise InputError(
            f"{where}: expected conversations with a question and an answer that has generative_value (docs/data.md, "
            f"Answer file), got {_fields(record)}. {remedy}."
        )
    if "value" not in turns[1]:
        raise InputError(f"{where}: conversations[1].value (the truth) is absent. Fix the record.")
    identifier = record.get("id")
    if identifier is not None and (not isinstance(identifier, str | int) or isinstance(identifier, bool)):
        raise InputError(f"{where}: id must be a string or an integer. Fix the id.")
    prediction = turns[1].get("generative_value")
    said = prediction if isinstance(prediction, str) else None
    return Answer(position, identifier, where, turns[1]["value"], said, record)


def _fields(record: Record) -> str:
    """The fields of a record, and of its second turn, for messages."""
    turns = record.get("conversations")
    answer = turns[1] if isinstance(turns, list) and len(turns) > 1 and isinstance(turns[1], dict) else {}
    return f"the fields {shown([*record, *(f'conversations[1].{name}' for name in answer)])}"


def _refuse_repeated_ids(answers: tuple[Answer, ...]) -> None:
    remedy = "Fix the file, or pass --key-by-position to identify records by position."
    seen: dict[str | int, int] = {}
    for answer in answers:
        if answer.identifier is None:
            raise InputError(f"{answer.where}: id is absent. {remedy}")
        if answer.identifier in seen:
            raise InputError(
                f"{answer.where}: id occurs already in record {seen[answer.identifier]}; "
                f"one of the two answers would be lost. {remedy}"
            )
        seen[answer.identifier] = answer.position


def _texts(records: list[Record], field: str, file: Path) -> list[str | None]:
    values = [record.get(field) for record in records]
    for n, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            raise InputError(f"{file}: {name_of(records[n], n)}: {field} must be text. Fix the record.")
    return values


def _omitted_positions(file: Path) -> set[int]:
    listed = omitted_file(file)
    positions = [entry.get("position") for entry in read_records(listed)] if listed.is_file() else []
    if not all(isinstance(position, int) for position in positions):
        raise InputError(f"{listed}: every position must be a whole number. Run the inference again.")
    return set(positions)


def _refuse_other_records(
    records: list[Record], file: Path, question_file: Path, key_by_position: bool, omitted: set[int]
) -> None:
    """Refuse answers that are not exactly one to each record of the question file that was not omitted."""
    questions = [record for n, record in enumerate(read_records(question_file)) if n not in omitted]
    if key_by_position:
        if len(records) != len(questions):
            raise InputError(
                f"{file}: holds {len(records)} answers, but {question_file} has {len(questions)} records. "
                "Run the inference to its end."
            )
        pairs = list(zip(records, questions, strict=True))
    else:
        pairs = _paired_by_id(records, file, questions, question_file)
    for n, (record, question) in enumerate(pairs):
        field = _first_difference(record, question)
        if field is not None:
            raise InputError(
                f"{file}: {name_of(record, n)}: {field} differs from that in {question_file}. "
                "Give the question file that was asked, or run the inference again."
            )


def _paired_by_id(
    records: list[Record], file: Path, questions: list[Record], question_file: Path
) -> list[tuple[Record, Record]]:
    by_id: dict[str | int, Record] = {}
    for n, question in enumerate(questions):
        identifier = question.get("id")
        where = f"{question_file}: {name_of(question, n)}"
        if not isinstance(identifier, str | int) or isinstance(identifier, bool):
            raise InputError(f"{where}: id must be a string or an integer. Correct it, or pass --key-by-position.")
        if identifier in by_id:
            raise InputError(f"{where}: id occurs twice. Fix the file, or pass --key-by-position.")
        by_id[identifier] = question
    answered = {record["id"] for record in records}
    missing = [identifier for identifier in by_id if identifier not in answered]
    if missing:
        raise InputError(
            f"{file}: {len(missing)} of {len(by_id)} records of {question_file} are not answered "
            f"(first: id {missing[0]!r}). Run the inference to its end."
        )
    for n, record in enumerate(records):
        if record["id"] not in by_id:
            raise InputError(
                f"{file}: {name_of(record, n)} is not in {question_file}. Give the question file that was asked."
            )
    return [(record, by_id[record["id"]]) for record in records]


def _first_difference(record: Record, question: Record) -> str | None:
    if record.get("id") != question.get("id"):
        return "id"
    if record.get("task") != question.get("task"):
        return "task"
    turns = question.get("conversations")
    if not isinstance(turns, list):
        return "conversations"
    for n in range(2):
        asked = turns[n].get("value") if len(turns) > n and isinstance(turns[n], dict) else None
        if record["conversations"][n].get("value") != asked:
            return f"conversations[{n}].value"
    return None
