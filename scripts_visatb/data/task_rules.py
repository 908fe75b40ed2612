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
from typing import Any

from visatb.errors import InputError
from visatb.files import read_text
from visatb.records import IMAGE_TOKEN, Record, image_names
from visatb.yaml_files import read_yaml

NO_IMAGE = "none"
_LISTS = (
    "image",
    "question_is",
    "question_contains",
    "question_ends",
    "question_regex",
    "question_list",
    "answer_regex",
)
_COUNTS = ("min_questions", "max_questions")


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
        question_is: complete questions; question_list: text files with one question per line, case-insensitive.
        question_contains, question_ends: parts of the question.
        question_regex, answer_regex: regular expressions that match anywhere in it.
        min_questions, max_questions: number of questions of the conversation.
    """

    task: str
    image: tuple[str, ...] = ()
    question_is: tuple[str, ...] = ()
    question_contains: tuple[str, ...] = ()
    question_ends: tuple[str, ...] = ()
    question_regex: tuple[re.Pattern, ...] = ()
    question_list: tuple[frozenset[str], ...] = ()
    answer_regex: tuple[re.Pattern, ...] = ()
    min_questions: int = 0
    max_questions: int | None = None

    @property
    def reads_text(self) -> bool:
        """Whether the rule has a condition on question or answer, so that it can apply within a conversation."""
        return any(getattr(self, name) for name in _LISTS if name != "image")

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


def load_rules(path: Path) -> list[Rule]:
    """Read and check a rule file and those that it includes.

    Raises:
        InputError: naming file, rule and key.
    """
    return _load(path, ())


def _load(path: Path, includers: tuple[Path, ...]) -> list[Rule]:
    if path.resolve() in includers:
        raise InputError(f"{path}: includes itself. Remove the include.")
    content = read_yaml(path)
    if not isinstance(content, dict) or not content.keys() <= {"include", "rename", "rules"}:
        raise InputError(f"{path}: must be a mapping with the keys rules, include and rename only. Fix the file.")
    entries, rename, include = content.get("rules") or [], content.get("rename") or {}, content.get("include")
    if not isinstance(entries, list) or not (entries or include):
        raise InputError(f"{path}: rules must be a list of rules. Add one.")
    if not isinstance(rename, dict) or not all(isinstance(name, str) for pair in rename.items() for name in pair):
        raise InputError(f"{path}: rename must map task names to task names, got {rename!r}. Fix the key.")
    if include is not None and not isinstance(include, str):
        raise InputError(f"{path}: include must be the name of a file, got {include!r}. Fix the key.")
    rules = [_rule(entry, f"{path}: rules[{n}]", path.parent) for n, entry in enumerate(entries)]
    if include is not None:
        rules += _load(path.parent / include, (*includers, path.resolve()))
    return [replace(rule, task=rename.get(rule.task, rule.task)) for rule in rules]


def _rule(entry: Any, where: str, folder: Path) -> Rule:
    if not isinstance(entry, dict) or not isinstance(entry.get("task"), str) or not entry["task"]:
        raise InputError(f"{where} must be a mapping with task and conditions, got {entry!r}. Fix the rule.")
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if key in _LISTS:
            values[key] = _texts(value, f"{where}.{key}")
        elif key in _COUNTS:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{where}.{key} must be a whole number >= 1, got {value!r}. Fix the key.")
            values[key] = value
        elif key != "task":
            known = ", ".join(("task", *_LISTS, *_COUNTS))
            raise InputError(f"{where}: unknown key {key}. Known: {known}.")
    for key in ("question_regex", "answer_regex"):
        if key in values:
            values[key] = tuple(_compiled(text, f"{where}.{key}") for text in values[key])
    if "question_list" in values:
        lists = (read_text(folder / name) for name in values["question_list"])
        values["question_list"] = tuple(frozenset(map(_listed, text.splitlines())) - {""} for text in lists)
    return Rule(task=entry["task"], **values)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(text, str) and text for text in values):
        raise InputError(f"{where} must be a text or a list of texts, got {value!r}. Fix the key.")
    return tuple(values)


def _compiled(text: str, where: str) -> re.Pattern:
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"{where}: {text!r} is not a valid regular expression: {error}. Fix the key.") from None


def _listed(question: str) -> str:
    """A question as compared with lists: its first line (the response format follows), lower case."""
    return question.partition("\n")[0].strip().casefold()
