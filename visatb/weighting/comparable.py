"""Whether scores can be compared: the same metric, on the same records. Metric files say how a score was measured."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visatb.errors import InputError, shown

ALLOW = "--allow-different-records"
_SPLITS = ("train", "val", "test", "dev", "testdev", "validation")
_SHOWN = 5  # differences named in one message


@dataclass(frozen=True)
class Measured:
    """How a score was measured, as its metric file says; None where it does not.

    Attributes:
        file: the metric file.
        metric: name of the metric.
        n, omitted: number of records scored, and left out by inference.
        records: digest of the scored records (`eval.scores.records_digest`).
        split: as the name of the answer file says.
    """

    file: Path
    metric: str
    n: int | None = None
    omitted: int | None = None
    records: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Cell:
    """One score to be compared: whose it is, of which column, and how it was measured."""

    model: str
    column: str
    measured: Measured


def measured_of(content: Mapping[str, Any], file: Path) -> Measured:
    """What a metric file says of its measurement.

    Raises:
        InputError: if a key has a value that no evaluator writes.
    """
    metric = content.get("metric")
    if not isinstance(metric, str) or not metric:
        raise InputError(f"{file}: metric must be a name, got {shown(metric)}. Score the answers again.")
    counts = {}
    for key, least in (("n", 1), ("omitted", 0)):
        value = counts[key] = content.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise InputError(
                f"{file}: {key} must be a whole number >= {least}, got {shown(value)}. Score the answers again."
            )
    records, answers = content.get("records"), content.get("answers")
    # Answer files are named <questions>_<model>.json, and a model may be called anything.
    words = re.split(r"[-_.]", answers.rpartition("_")[0].lower()) if isinstance(answers, str) else []
    split = next((word for word in words if word in _SPLITS), None)
    return Measured(file, metric, records=records if isinstance(records, str) else None, split=split, **counts)


def check_comparable(
    cells: Sequence[Cell],
    allow_different_records: bool = False,
    metrics: Mapping[str, str] | None = None,
    known: Collection[str] = (),
    remedy: str = f"Score the same records, or pass {ALLOW} to compare them nevertheless.",
) -> list[str]:
    """Refuse scores of one column that do not compare.

    Args:
        cells: the scores that are set side by side; the first of a column is what the others are compared with.
        allow_different_records: another number of records, other records or another split are only reported.
        metrics: column -> the metric of a benchmark file, as metric files name it. A score of another one of `known`
            is refused; the names that other programs write are not compared with it.
        known: the names of this project's metrics in metric files.
        remedy: what to do about different records, for the message.

    Returns:
        a sentence for each difference that is allowed, and for each column whose records were omitted alike.

    Raises:
        InputError: another metric; other records that are not allowed.
    """
    first: dict[str, Cell] = {}
    different, notes = [], []
    for cell in cells:
        other = first.setdefault(cell.column, cell)
        _refuse_other_metric(cell, other, (metrics or {}).get(cell.column), known)
        difference = _difference(cell, other)
        if difference:
            different.append(difference)
        elif cell is other and cell.measured.omitted:
            notes.append(f"{cell.column}: {_count(cell.measured)} under {cell.model}")
    if different and not allow_different_records:
        more = f"; and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
        raise InputError(f"scores of different records do not compare: {'; '.join(different[:_SHOWN])}{more}. {remedy}")
    return different + notes


def _refuse_other_metric(cell: Cell, other: Cell, expected: str | None, known: Collection[str]) -> None:
    found, file = cell.measured.metric, cell.measured.file
    if expected is not None and found in known and found != expected:
        raise InputError(
            f"{file}: metric must be {expected!r}, the metric of {cell.column} in the benchmark file, got {found!r}. "
            "Score with the metric of the benchmark file."
        )
    if found != other.measured.metric:
        raise InputError(
            f"{file}: metric must be {other.measured.metric!r} as in {other.measured.file}, got {found!r}. "
            f"Score {cell.column} with the same metric for all models."
        )


def _difference(cell: Cell, other: Cell) -> str | None:
    """How the records of two scores differ, as far as both metric files say; None if they do not."""
    one, two = cell.measured, other.measured
    where = f"{cell.column}: "
    for key in ("n", "omitted"):
        if None not in (getattr(one, key), getattr(two, key)) and getattr(one, key) != getattr(two, key):
            return where + f"{_count(one)} under {cell.model}, {_count(two)} under {other.model}"
    if None not in (one.records, two.records):
        if one.records != two.records:
            return where + f"other records under {cell.model} than under {other.model} ({one.n} each)"
    elif None not in (one.split, two.split) and one.split != two.split:
        return where + f"split {one.split} under {cell.model}, {two.split} under {other.model}"
    return None


def _count(measured: Measured) -> str:
    return f"{measured.n} records scored" + (f" and {measured.omitted} omitted" if measured.omitted else "")
