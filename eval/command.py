"""The command line that every evaluator shares, and what it writes."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, TypedDict

from eval.answers import Answer, AnswerFile, read_answers
from eval.comparable import records_digest
from visatb.cli import ArgumentParser
from visatb.files import refuse_unwritable, write_json, write_text


class Scores(TypedDict):
    """The outcome of one evaluation.

    metric: "CIDEr", "exact_match" or "iou_accuracy".
    score: the mean score; a fraction for the last two, raw for CIDEr.
    n: number of records.
    malformed: predictions that could not be read as one; each counts as wrong.
    per_record: one object per record in file order, with at least position, id, score, malformed, prediction, truth.
    summary: what the command prints.
    notes: what a reader of the score should know about the data or the predictions.
    """

    metric: str
    score: float
    n: int
    malformed: int
    per_record: list[dict[str, Any]]
    summary: str
    notes: list[str]


def record_score(answer: Answer, score: float, malformed: bool, **more: Any) -> dict[str, Any]:
    """One entry of `Scores["per_record"]`."""
    return {
        "position": answer.position,
        "id": answer.identifier,
        "score": score,
        "malformed": malformed,
        **more,
        "prediction": answer.prediction,
        "truth": answer.truth,
    }


def scores_of(
    metric: str, score: float, per_record: list[dict[str, Any]], summary: str | None = None, notes: Sequence[str] = ()
) -> Scores:
    """The scores of a file; `summary` is `metric:  score` if left out."""
    return Scores(
        metric=metric,
        score=score,
        n=len(per_record),
        malformed=sum(1 for entry in per_record if entry["malformed"]),
        per_record=per_record,
        summary=summary or f"{metric}:  {score}",
        notes=list(notes),
    )


def hit_scores(metric: str, per_record: list[dict[str, Any]], notes: Sequence[str] = ()) -> Scores:
    """The scores of a metric that counts hits; a record's score is 1.0 or 0.0."""
    hits = sum(1 for entry in per_record if entry["score"] == 1.0)
    total = len(per_record)
    return scores_of(metric, hits / total, per_record, f"{hits} / {total} = {hits / total}", notes)


def answer_parser(script: str, description: str, more: str = "--output metrics.json") -> ArgumentParser:
    """The flags that all evaluators have.

    Args:
        script: file name of the command, for the example.
        description: what it computes.
        more: flags of the example.
    """
    parser = ArgumentParser(
        description=description,
        epilog=f"example:\n  python eval/{script} -a answers/VQAv2-val-2k_my-model.json {more}",
    )
    parser.add_argument(
        "-a", "--answers-file", "--answer-file", dest="answers_file", required=True, help="answer file to score"
    )
    parser.add_argument(
        "--question-file",
        help="annotation file that was asked: refuse answers that are not exactly its records "
        "(without the flag: the file in the answer file's folder whose name fits, if there is one)",
    )
    parser.add_argument(
        "--key-by-position",
        action="store_true",
        help="tell records apart by their position in the file, where ids repeat or are absent",
    )
    parser.add_argument("--output", help="write the metric to this JSON file")
    parser.add_argument("--per-record", help="write the score of every record to this JSON Lines file")
    return parser


def answers_of(options: argparse.Namespace) -> AnswerFile:
    """The answers that the flags name. Raises InputError as `read_answers`, and if an output cannot be written."""
    refuse_unwritable([options.output, options.per_record], [options.answers_file, options.question_file])
    return read_answers(options.answers_file, options.question_file, options.key_by_position)


def report(scores: Scores, answers: AnswerFile, options: argparse.Namespace) -> int:
    """Write the files that the flags ask for, then print the score. Returns the exit code."""
    write_scores(scores, answers, options.output, options.per_record)
    print_notes(notes_on(scores, answers))
    print(scores["summary"])
    return 0


def write_scores(
    scores: Scores, answers: AnswerFile, output: str | os.PathLike | None, per_record: str | os.PathLike | None
) -> None:
    """Write the metric file (JSON) and the score of every record (JSON Lines); None leaves a file out.

    The metric file comes last: where it is, the other is complete.
    """
    if per_record is not None:
        lines = (json.dumps(entry, ensure_ascii=False, allow_nan=False) for entry in scores["per_record"])
        write_text(per_record, "".join(line + "\n" for line in lines))
    if output is not None:
        write_json(output, _metrics(scores, answers))


def _metrics(scores: Scores, answers: AnswerFile) -> dict[str, Any]:
    """The content of a metric file, which the run graph and the score tables read."""
    return {
        "metric": scores["metric"],
        "score": scores["score"],
        "n": scores["n"],
        "malformed": scores["malformed"],
        "omitted": answers.omitted,
        "records": records_digest(scores["per_record"]),
        "task": answers.task,
        "generator": answers.generator,
        "answers": answers.path.name,
    }


def print_notes(notes: Sequence[str]) -> None:
    """Tell what the user should know beside the score, on stderr."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def notes_on(scores: Scores, answers: AnswerFile) -> list[str]:
    """What a reader of the score should know: its own notes, malformed and omitted answers, several tasks."""
    notes = list(scores["notes"])
    if scores["malformed"]:
        first = next(entry for entry in scores["per_record"] if entry["malformed"])
        notes.append(
            f"{scores['malformed']} of {scores['n']} predictions are malformed and count as wrong "
            f"(first: record {first['position']}, id {first['id']!r})"
        )
    if answers.omitted:
        notes.append(f"{answers.omitted} records were left out by the inference and are not scored")
    if len(answers.tasks) > 1:
        notes.append(f"the file holds {len(answers.tasks)} tasks ({', '.join(answers.tasks)}), scored as one")
    return notes
