"""Rules that assign a task to a record by its image folder and the format of its questions.

A rule file is a YAML mapping:

    include: llava_mix665k.yaml        # rules of another file, after these; relative to this file
    rename: {detail: ShareGPT4V}       # other names for tasks, of included rules too
    rules:
      - task: VQAv2
        image: coco/*
        question_ends: Answer the question using a single word or phrase.

The first rule whose conditions are all met applies. A condition with several values is met by any of them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from visatb.errors import InputError, shown
from visatb.files import read_text
from visatb.records import IMAGE_TOKEN, Record, image_names
from visatb.schema import TEXT, Before, BrokenError, Check, read, rule, section, whole
from visatb.yaml_files import read_yaml

NO_IMAGE = "none"


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(text, str) and text for text in values):
        raise BrokenError(f" must be a text or a list of texts, got {shown(value)}. Fix the key.")
    return tuple(values)


def _patterns(texts: tuple[str, ...]) -> tuple[re.Pattern, ...]:
    patterns = []
    for text in texts:
        try:
            patterns.append(re.compile(text))
        except re.error as error:
            message = f": {shown(text)} is not a valid regular expression: {error}. Fix the key."
            raise BrokenError(message) from None
    return tuple(patterns)


def _list(value: Any) -> list:
    if value is not None and not isinstance(value, list):
        raise BrokenError(" must be a list of rules. Add one.")
    return value or []


_TEXTS = Check(_texts, {"type": ["string", "array"]})
_PATTERNS = _TEXTS.then(_patterns)
_NAMES = rule(
    "a mapping of task names to task names",
    lambda value: isinstance(value, dict) and all(isinstance(name, str) for pair in value.items() for name in pair),
    remedy="Fix the key",
).or_default({})


@dataclass(frozen=True)
class Question:
    """A question of a conversation with its answer; `text` has no image tokens and no surrounding whitespace."""

    text: str
    answer: str


@dataclass(frozen=True)
class Rule:
    """One rule; an empty condition is met by everything.

    Attributes:
        task: the task it assigns.
        image: patterns with `*`, `?` and `[...]` for the (first) image; NO_IMAGE for text-only records.
        question_is: complete questions; question_list: the questions of text files, one per line, case-insensitive (in
            a rule file: their names).
        question_contains, question_ends: parts of the question.
        question_regex, answer_regex: regular expressions that match anywhere in it.
        min_questions, max_questions: number of questions of the conversation.
    """

    task: Annotated[str, TEXT]
    image: Annotated[tuple[str, ...], _TEXTS] = ()
    question_is: Annotated[tuple[str, ...], _TEXTS] = ()
    question_contains: Annotated[tuple[str, ...], _TEXTS] = ()
    question_ends: Annotated[tuple[str, ...], _TEXTS] = ()
    question_regex: Annotated[tuple[re.Pattern, ...], _PATTERNS] = ()
    question_list: Annotated[tuple[frozenset[str] | str, ...], _TEXTS] = ()
    answer_regex: Annotated[tuple[re.Pattern, ...], _PATTERNS] = ()
    min_questions: Annotated[int, whole(1)] = 0
    max_questions: Annotated[int | None, whole(1)] = None

    @property
    def reads_text(self) -> bool:
        """Whether the rule has a condition on question or answer, so that it can apply within a conversation."""
        names = ("question_is", "question_contains", "question_ends", "question_regex", "question_list", "answer_regex")
        return any(getattr(self, name) for name in names)

    def fits(self, image: str | None, questions: int) -> bool:
        """Whether a record with this first image and number of questions meets the record-level conditions."""
        if self.image:
            patterns = [pattern for pattern in self.image if pattern != NO_IMAGE]
            named = image is not None and any(fnmatchcase(image, pattern) for pattern in patterns)
            if not named and not (image is None and NO_IMAGE in self.image):
                return False
        return self.min_questions <= questions and (self.max_questions is None or questions <= self.max_questions)

    def meets(self, question: Question) -> bool:
        """Whether a question meets the conditions on its text."""
        text = question.text
        return (
            (not self.question_is or text in self.question_is)
            and (not self.question_contains or any(part in text for part in self.question_contains))
            and (not self.question_ends or text.endswith(self.question_ends))
            and (not self.question_regex or any(regex.search(text) for regex in self.question_regex))
            and (not self.question_list or any(_listed(text) in questions for questions in self.question_list))
            and (not self.answer_regex or any(regex.search(question.answer) for regex in self.answer_regex))
        )


def tasks_of(record: Record, rules: Iterable[Rule]) -> list[str | None]:
    """The task of each question of a checked record.

    The first question takes the first rule that it meets, None if there is none. A later one takes the first rule with
    conditions on the text that it meets, else the task of the previous question: LLaVA's mix states the response
    format only once.
    """
    questions = questions_of(record)
    image = next(iter(image_names(record)), None)
    fitting = [rule for rule in rules if rule.fits(image, len(questions))]
    found: list[str | None] = [next((rule.task for rule in fitting if rule.meets(questions[0])), None)]
    fitting = [rule for rule in fitting if rule.reads_text]
    for question in questions[1:]:
        found.append(next((rule.task for rule in fitting if rule.meets(question)), found[-1]))
    return found


def questions_of(record: Record) -> list[Question]:
    """The questions of a checked record with their answers; a leading gpt turn is skipped."""
    turns = record["conversations"]
    values = [turn["value"] for turn in turns[len(turns) % 2 :]]
    return [
        Question(question.replace(IMAGE_TOKEN, "").strip(), answer)
        for question, answer in zip(values[::2], values[1::2], strict=True)
    ]


@dataclass(frozen=True)
class _RuleFile:
    """The content of a rule file."""

    rules: Annotated[
        tuple[Annotated[Rule, section(Rule, "a mapping with task and conditions")], ...], Before(_list)
    ] = ()
    rename: Annotated[dict[str, str], _NAMES] = None
    include: Annotated[str | None, TEXT.or_default()] = None


def load_rules(path: Path) -> list[Rule]:
    """Read and check a rule file and those that it includes.

    Raises:
        InputError: naming file, rule and key.
    """
    return _load(path, ())


def _load(path: Path, includers: tuple[Path, ...]) -> list[Rule]:
    if path.resolve() in includers:
        raise InputError(f"{path}: includes itself. Remove the include.")
    found = read(Annotated[_RuleFile, section(_RuleFile)], read_yaml(path), path)
    if not (found.rules or found.include):
        raise InputError(f"{path}: rules must be a list of rules. Add one.")
    rules = [replace(rule, question_list=_questions(path.parent, rule.question_list)) for rule in found.rules]
    if found.include is not None:
        rules += _load(path.parent / found.include, (*includers, path.resolve()))
    return [replace(rule, task=(found.rename or {}).get(rule.task, rule.task)) for rule in rules]


def _questions(folder: Path, names: Iterable[str]) -> tuple[frozenset[str], ...]:
    lists = (read_text(folder / name) for name in names)
    return tuple(frozenset(map(_listed, text.splitlines())) - {""} for text in lists)


def _listed(question: str) -> str:
    """A question as compared with lists: its first line (the response format follows), lower case."""
    return question.partition("\n")[0].strip().casefold()
