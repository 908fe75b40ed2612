"""LLaVA's answer lines set beside the questions of a benchmark, and the metric file that comes of it.

An answers file holds one line per question (see llava/eval/model_vqa_loader.py):

    {"question_id": 3, "prompt": "...", "text": "the answer", "answer_id": "...", "model_id": "...", "metadata": {}}
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from eval.scores import records_digest
from visatb.cli import ArgumentParser
from visatb.errors import InputError
from visatb.files import parse_json, read_json, read_text, refuse_unwritable, write_json, write_text
from visatb.records import Record

Entry = dict[str, Any]
_KINDS = {str: "text", int: "a whole number", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class AnswerLine:
    """One line of an answers file.

    Attributes:
        question_id: as in the file.
        text: the model's answer; may be empty.
        prompt: what was asked; "" if the line does not tell.
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


@dataclass(frozen=True)
class Answers:
    """The answers of one model to one benchmark.

    Attributes:
        path: the file.
        lines: in file order, at least one.
        generator: the model's name; None if the file does not tell.
    """

    path: Path
    lines: tuple[AnswerLine, ...]
    generator: str | None = None


class Scores(TypedDict):
    """The outcome of a scorer.

    metric: name of the number in `score`.
    score: what papers report for the benchmark: percent, or points for MME.
    n: number of questions.
    malformed: answers that could not be read as one.
    details: every other number of the benchmark.
    per_record: one object per question: question_id, score (1.0 right), malformed, prediction, truth and its groups.
    summary: what the command prints.
    notes: what a reader should know beside the score.
    """

    metric: str
    score: float
    n: int
    malformed: int
    details: dict[str, Any]
    per_record: list[Entry]
    summary: str
    notes: list[str]


def read_answers(path: str | os.PathLike) -> Answers:
    """Read an answers file.

    Raises:
        InputError: naming file, line and field. No line; a line without question_id or text, or whose model_id is no
            text; several models.
    """
    lines = []
    for where, record in read_lines(path):
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
    records = []
    for n, line in enumerate(read_text(path).split("\n"), 1):
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
        raise InputError(f"{path}: must hold a JSON object. Give the official file.")
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


def entry(line: AnswerLine, score: float, truth: Any, malformed: bool = False, **groups: Any) -> Entry:
    """One entry of `Scores["per_record"]`; `groups` are what the scores are told apart by."""
    return {
        "question_id": line.question_id,
        "score": float(score),
        "malformed": malformed,
        **groups,
        "prediction": line.text,
        "truth": truth,
    }


def percent(entries: Sequence[Entry]) -> float:
    """100 times the mean score."""
    return 100 * sum(one["score"] for one in entries) / len(entries)


def percent_by(entries: Iterable[Entry], group: str) -> dict[str, float]:
    """100 times the mean score for each value of a group, in order of the values; entries without one are left out."""
    found: dict[str, list[Entry]] = {}
    for one in entries:
        if one.get(group) is not None:
            found.setdefault(str(one[group]), []).append(one)
    return {value: percent(found[value]) for value in sorted(found)}


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
    malformed = [one for one in entries if one["malformed"]]
    notes = []
    if malformed:
        first = malformed[0]["question_id"]
        notes.append(f"{len(malformed)} of {len(entries)} answers cannot be read and {unread} (first: {first!r})")
    return Scores(
        metric=metric,
        score=score,
        n=len(entries),
        malformed=len(malformed),
        details=details,
        per_record=entries,
        summary="\n".join(summary),
        notes=notes,
    )


def scorer_parser(module: str, description: str | None, example: str, task: str) -> ArgumentParser:
    """The flags that all scorers have.

    Args:
        module: file name of the scorer, for the example.
        description: what it computes.
        example: further flags of the example.
        task: default of --task.
    """
    parser = ArgumentParser(
        description=description,
        epilog=f"example:\n  python -m llava.eval.scorers.{module} --answers-file answers.jsonl {example} "
        f"--output metrics/my-model/{task}.json",
    )
    parser.add_argument(
        "--answers-file", "--result-file", dest="answers_file", required=True, help="LLaVA's answer lines to score"
    )
    add_outputs(parser, task)
    return parser


def add_outputs(parser: ArgumentParser, task: str) -> None:
    """The flags that say where scores go."""
    parser.add_argument("--output", help="write the metric to this JSON file, which eval/overall.py reads")
    parser.add_argument("--per-record", help="write the score of every question to this JSON Lines file")
    parser.add_argument("--task", default=task, help="name of the benchmark in the metric file")


def answers_of(options: argparse.Namespace, *inputs: str | None, outputs: Sequence[str | None] = ()) -> Answers:
    """The answers that the flags name. Raises InputError as `read_answers`, and if an output cannot be written."""
    refuse_unwritable([options.output, options.per_record, *outputs], [options.answers_file, *inputs])
    return read_answers(options.answers_file)


def score_annotated(
    parser: ArgumentParser,
    argv: Sequence[str] | None,
    read: Callable[[str], Any],
    score: Callable[[Answers, Any, str], Scores],
) -> int:
    """The command of a scorer that needs --annotation-file and no other input; returns the exit code.

    Args:
        parser: of `scorer_parser`, with that flag.
        argv: the flags; None for those of the command line.
        read: path -> annotations.
        score: (answers, annotations, path for messages) -> scores.
    """
    options = parser.parse_args(argv)
    answers = answers_of(options, options.annotation_file)
    scores = score(answers, read(options.annotation_file), options.annotation_file)
    return report(scores, answers.generator, answers.path, options)


def report(scores: Scores, generator: str | None, source: Path, options: argparse.Namespace) -> int:
    """Write the files that the flags ask for, the metric file last, and print the scores. Returns the exit code.

    The metric file has the keys of eval/*.py --output and `details`.
    """
    if options.per_record is not None:
        lines = (json.dumps(one, ensure_ascii=False, allow_nan=False) for one in scores["per_record"])
        write_text(options.per_record, "".join(line + "\n" for line in lines))
    if options.output is not None:
        content = {
            "metric": scores["metric"],
            "score": scores["score"],
            "n": scores["n"],
            "malformed": scores["malformed"],
            "omitted": 0,
            "records": records_digest(scores["per_record"]),
            "task": options.task,
            "generator": generator,
            "answers": source.name,
            "details": scores["details"],
        }
        write_json(options.output, content)
    for note in scores["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(scores["summary"])
    return 0
