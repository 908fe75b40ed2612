"""LLaVA's answer lines set beside the questions of a benchmark.

An answers file holds one line per question (see llava/eval/model_vqa_loader.py):

    {"question_id": 3, "prompt": "...", "text": "the answer", "answer_id": "...", "model_id": "...", "metadata": {}}
"""

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.scores import Entry, Scores, Source, scores_of
from visatb.errors import InputError, shown
from visatb.files import parse_json, read_json, read_text
from visatb.records import Record

_KINDS = {str: "text", int: "a whole number", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class AnswerLine:
    """One line of an answers file.

    Attributes:
        question_id: as in the file.
        text: the model's answer; may be empty.
        prompt: what was asked; "" if the line has none.
        where: file and line, for messages.
        record: the whole line.
    """

    question_id: str | int
    text: str
    prompt: str
    where: str
    record: Record = field(default_factory=dict, repr=False)

    @property
    def key(self) -> str:
        """The id as text: files of one benchmark write the same id as a number here and as text there."""
        return str(self.question_id)

    @property
    def identity(self) -> Entry:
        """The fields of a score entry that identify the question."""
        return {"question_id": self.question_id}

    @property
    def prediction(self) -> str:
        """The answer, under the name of a score entry."""
        return self.text


@dataclass(frozen=True)
class Answers:
    """The answers of one model to one benchmark.

    Attributes:
        path: the file.
        lines: in file order, at least one.
        generator: the model's name; None if the file has none.
    """

    path: Path
    lines: tuple[AnswerLine, ...]
    generator: str | None = None

    @property
    def source(self) -> Source:
        """What is scored."""
        return Source(self.path, self.generator)


def read_answers(path: str | os.PathLike) -> Answers:
    """Read an answers file.

    Raises:
        InputError: naming file, line and field. No line; a line without question_id or text, or whose model_id is no
            text; several models.
    """
    return parse_answers(read_text(path), path)


def parse_answers(content: str, path: str | os.PathLike) -> Answers:
    """The answers in the content of an answers file, as `read_answers`; `path` is named in messages."""
    lines = []
    for where, record in parse_lines(content, path):
        identifier = record.get("question_id")
        if not isinstance(identifier, str | int) or isinstance(identifier, bool):
            raise InputError(f"{where}: question_id must be text or a whole number, got {identifier!r}. Fix the line.")
        model = record.get("model_id")
        if model is not None and not isinstance(model, str):
            raise InputError(f"{where}: model_id must be text, got {model!r:.40}. Fix the line.")
        prompt = record.get("prompt")
        text = get(record, "text", str, where)
        lines.append(AnswerLine(identifier, text, prompt if isinstance(prompt, str) else "", where, record))
    models = {line.record.get("model_id"): line for line in lines}
    if len(models) > 1:
        (first, _), (other, at) = list(models.items())[:2]
        raise InputError(f"{at.where}: model_id is {other!r}, but {first!r} before. Score one model at a time.")
    return Answers(Path(path), tuple(lines), lines[0].record.get("model_id"))


def read_lines(path: str | os.PathLike) -> list[tuple[str, Record]]:
    """(file and line for messages, object) of a JSON Lines file, whatever its name (POPE's labels end in `.json`)."""
    return parse_lines(read_text(path), path)


def parse_lines(content: str, path: str | os.PathLike) -> list[tuple[str, Record]]:
    """As `read_lines`, of the content of the file."""
    if content.lstrip().startswith("["):
        raise InputError(
            f"{path}: expected JSON Lines (one object per line), got a JSON list. Write one object per line."
        )
    records = []
    for n, line in enumerate(content.split("\n"), 1):
        if line.strip():
            where = f"{path} line {n}"
            record = parse_json(line, where)
            if not isinstance(record, dict):
                raise InputError(f"{where}: must be a JSON object (one a line). Give a JSON Lines file.")
            records.append((where, record))
    if not records:
        raise InputError(f"{path}: holds no line. Give a file with at least one.")
    return records


def read_object(path: str | os.PathLike) -> Record:
    """The object that a JSON file holds. Raises InputError for another shape."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a JSON object, got {shown(content)}. Give the official file.")
    return content


def get(record: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    """A field of a record, of the kind that it must have. Raises InputError naming record and field."""
    value = record.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        state = f"got {value!r:.40}" if name in record else "which is absent"
        raise InputError(f"{where}: must have {name}, {_KINDS[kind]}, {state}. Give the official file.")
    return value


def by_id(records: Iterable[tuple[str, Record]], name: str = "question_id") -> dict[str, Record]:
    """Records by the text of their id. Raises InputError for one that is absent or occurs twice."""
    found: dict[str, Record] = {}
    for where, record in records:
        identifier = record.get(name)
        if not isinstance(identifier, str | int) or isinstance(identifier, bool):
            raise InputError(f"{where}: must have {name}, text or a whole number, got {identifier!r}. Fix the file.")
        if str(identifier) in found:
            raise InputError(f"{where}: {name} {identifier!r} occurs twice. Fix the file.")
        found[str(identifier)] = record
    return found


def numbered(records: Any, path: str | os.PathLike) -> list[tuple[str, Record]]:
    """(file and position for messages, object) of a list of objects. Raises InputError for another shape or none."""
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise InputError(f"{path}: must hold a list of objects that is not empty. Give the official file.")
    return [(f"{path}: record {n}", record) for n, record in enumerate(records)]


def in_order_of(
    keys: Sequence[Hashable],
    answers: Answers,
    source: str | os.PathLike,
    key_of: Callable[[AnswerLine], Hashable] = lambda line: line.key,
) -> list[AnswerLine]:
    """The answers in the order of the questions, exactly one to each.

    Args:
        keys: of the questions; one that occurs twice wants two answers.
        answers: the answers, in any order.
        source: file or folder of the questions, for messages.
        key_of: which question a line answers.

    Raises:
        InputError: an answer to no question, two to one, or none.
    """
    asked = Counter(keys)
    given: dict[Hashable, list[AnswerLine]] = {}
    for line in answers.lines:
        key = key_of(line)
        given.setdefault(key, []).append(line)
        if key not in asked:
            raise InputError(
                f"{line.where}: question_id {line.question_id!r} is no question of {source}. "
                "Give the file that was asked."
            )
        if len(given[key]) > asked[key]:
            raise InputError(
                f"{line.where}: question_id {line.question_id!r} is answered twice. Keep one answer to each question."
            )
    missing = [key for key, n in asked.items() if len(given.get(key, ())) < n]
    if missing:
        raise InputError(
            f"{answers.path}: lacks {len(missing)} of {len(asked)} questions of {source} "
            f"(first: {missing[0]!r:.80}). Run the inference to its end, or give files of one split."
        )
    turns = {key: iter(lines) for key, lines in given.items()}
    return [next(turns[key]) for key in keys]


def unique(answers: Answers) -> Answers:
    """The same answers. Raises InputError if a question is answered twice."""
    in_order_of(list(dict.fromkeys(line.key for line in answers.lines)), answers, answers.path)
    return answers


def outcome(
    metric: str,
    score: float,
    entries: list[Entry],
    summary: Sequence[str],
    unread: str = "count as wrong",
    **details: Any,
) -> Scores:
    """The scores of a benchmark.

    Args:
        metric, score: the number that papers report.
        entries: of every question.
        summary: lines to print.
        unread: what becomes of answers that could not be read.
        details: further numbers.
    """
    return scores_of(
        metric, score, entries, "\n".join(summary), unread=f"answers cannot be read and {unread}", details=details
    )
