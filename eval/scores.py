"""Scores of one model on one task: an entry for every answer, the whole, and the files that hold them."""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

from visatb.files import write_json, write_text

Entry = dict[str, Any]


class Answered(Protocol):
    """An answer that can be scored: what identifies it (`id` or `question_id`), and what the model said."""

    @property
    def identity(self) -> Entry: ...

    @property
    def prediction(self) -> str | None: ...


class Scores(TypedDict):
    """The outcome of a metric.

    metric: its name in metric files.
    score: what is reported: a fraction, percent, or points, as the metric says.
    n: number of records.
    malformed: predictions that could not be read as an answer.
    details: every other number of a zero-shot benchmark; None for the metrics of annotation records.
    per_record: one entry per record, of `entry`.
    summary: what the command prints.
    notes: what a reader of the score should know about the data or the predictions.
    """

    metric: str
    score: float
    n: int
    malformed: int
    details: dict[str, Any] | None
    per_record: list[Entry]
    summary: str
    notes: list[str]


@dataclass(frozen=True)
class Source:
    """What was scored.

    Attributes:
        path: the file of answers.
        generator, task: the model and the task; None if unknown.
        omitted: number of records that inference left out.
        notes: what a reader of any score should know about the file.
    """

    path: Path
    generator: str | None = None
    task: str | None = None
    omitted: int = 0
    notes: tuple[str, ...] = ()


def entry(answer: Answered, score: float, truth: Any, /, malformed: bool = False, **groups: Any) -> Entry:
    """One entry of `Scores["per_record"]`; `groups` are further fields, such as those that scores are grouped by."""
    return {
        **answer.identity,
        "score": float(score),
        "malformed": malformed,
        **groups,
        "prediction": answer.prediction,
        "truth": truth,
    }


def scores_of(
    metric: str,
    score: float,
    entries: list[Entry],
    summary: str | None = None,
    notes: Sequence[str] = (),
    unread: str = "predictions are malformed and count as wrong",
    details: dict[str, Any] | None = None,
) -> Scores:
    """The scores of a file.

    Args:
        metric, score, notes, details: see `Scores`.
        entries: of every record.
        summary: `metric:  score` if left out.
        unread: the note on malformed predictions.
    """
    malformed = [one for one in entries if one["malformed"]]
    if malformed:
        first = malformed[0]
        name = f"record {first['position']}, id {first['id']!r}" if "position" in first else repr(first["question_id"])
        notes = [*notes, f"{len(malformed)} of {len(entries)} {unread} (first: {name})"]
    return Scores(
        metric=metric,
        score=score,
        n=len(entries),
        malformed=len(malformed),
        details=details,
        per_record=entries,
        summary=summary or f"{metric}:  {score}",
        notes=list(notes),
    )


def hit_scores(metric: str, entries: list[Entry], notes: Sequence[str] = ()) -> Scores:
    """The scores of a metric that counts hits; a record's score is 1.0 or 0.0."""
    hits, total = sum(1 for one in entries if one["score"] == 1.0), len(entries)
    return scores_of(metric, hits / total, entries, f"{hits} / {total} = {hits / total}", notes)


def percent(entries: Sequence[Entry]) -> float:
    """100 times the mean score."""
    return 100 * sum(one["score"] for one in entries) / len(entries)


def percent_by(entries: Iterable[Entry], group: str) -> dict[str, float]:
    """100 times the mean score for each value of a group, in order of the values; entries without one are skipped."""
    found: dict[str, list[Entry]] = {}
    for one in entries:
        if one.get(group) is not None:
            found.setdefault(str(one[group]), []).append(one)
    return {value: percent(found[value]) for value in sorted(found)}


def records_digest(entries: Iterable[Mapping[str, Any]]) -> str:
    """A digest of the ids and truths of the scored records, whatever their order."""
    lines = sorted(
        json.dumps([one.get("id", one.get("question_id")), one.get("truth")], sort_keys=True, default=str)
        for one in entries
    )
    return hashlib.sha256("\n".join(lines).encode("utf-8", "replace")).hexdigest()[:16]


def write_scores(
    scores: Scores, source: Source, output: str | os.PathLike | None, per_record: str | os.PathLike | None
) -> None:
    """Write the metric file (JSON) and the entry of every record (JSON Lines); None leaves a file out.

    The metric file comes last: where it exists, the other is complete.
    """
    if per_record is not None:
        lines = (json.dumps(one, ensure_ascii=False, allow_nan=False) for one in scores["per_record"])
        write_text(per_record, "".join(line + "\n" for line in lines))
    if output is None:
        return
    content = {key: scores[key] for key in ("metric", "score", "n", "malformed")} | {
        "omitted": source.omitted,
        "records": records_digest(scores["per_record"]),
        "task": source.task,
        "generator": source.generator,
        "answers": source.path.name,
    }
    write_json(output, content if scores["details"] is None else content | {"details": scores["details"]})


def report(
    scores: Scores,
    source: Source,
    output: str | os.PathLike | None = None,
    per_record: str | os.PathLike | None = None,
    label: str = "",
) -> int:
    """Write the files that are asked for, then print notes (stderr) and summary. Returns the exit code.

    Args:
        label: printed before the summary and every note.
    """
    write_scores(scores, source, output, per_record)
    for note in [*scores["notes"], *source.notes]:
        print(f"note: {label}{note}", file=sys.stderr)
    print(label + scores["summary"], flush=True)
    return 0
