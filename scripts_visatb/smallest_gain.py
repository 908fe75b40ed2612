"""The smallest gain that validation sets of given sizes can distinguish from 0.

Two models answer the same records, so that their scores are compared record by record: the error of a gain is the
deviation of these differences over the square root of their number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from eval.registry import find_metric
from scripts_visatb.workflow.models import table_rows, tables_of
from scripts_visatb.workflow.places import Run
from visatb.benchmark import CORPUS_METRICS, Benchmark, Task
from visatb.layout import lay_out
from visatb.weighting.uncertainty import PER_RECORD, read_scores

CONFIDENCE, POWER = 0.95, 0.8
LEVEL = 0.5  # of the range of a score: where the records of an accuracy scatter most
CORRELATION = 0.5  # of the record scores of two models


@dataclass(frozen=True)
class Gain:
    """What a task's validation set can distinguish.

    Attributes:
        task: its name.
        records: of its validation set.
        smallest: the smallest gain that is distinguishable from 0; None where nothing is known.
        relative: whether that is a share of the score.
        level, measured: where the two models were scored, the score of the first, and the gain of the second.
    """

    task: str
    records: int
    smallest: float | None
    relative: bool = False
    level: float | None = None
    measured: float | None = None


def smallest_gain(deviation: float, records: int) -> float:
    """The smallest observed mean difference whose two-sided interval leaves 0 out.

    Args:
        deviation: of the differences of the records' scores.
        records: their number.
    """
    return NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * deviation / math.sqrt(records)


def paired_deviation(deviation: float, correlation: float) -> float:
    """The deviation of the difference of two scores of a record, which have one deviation and that correlation."""
    return deviation * math.sqrt(2 * (1 - correlation))


def assumed_gain(task: Task, records: int) -> Gain:
    """The gain at the level, deviation and correlation that are assumed before a run."""
    metric = find_metric(task.metric)
    low, high = metric.range
    if metric.deviation is None and math.isinf(high - low) or task.metric in CORPUS_METRICS:
        return Gain(task.name, records, None)
    # No score within a range scatters more than hits at its ends do.
    deviation = metric.deviation or (high - low) * math.sqrt(LEVEL * (1 - LEVEL))
    smallest = smallest_gain(paired_deviation(deviation, CORRELATION), records)
    return Gain(task.name, records, smallest, relative=metric.deviation is not None)


def measured_gain(task: str, without_R: Sequence[float], own_R: Sequence[float]) -> Gain:
    """The gain at the deviation that two models of a run have: without the task's own data, and with it."""
    difference_R = np.asarray(own_R) - np.asarray(without_R)
    records = len(difference_R)
    smallest = smallest_gain(float(difference_R.std(ddof=1)), records) if records > 1 else None
    return Gain(task, records, smallest, False, float(np.mean(without_R)), float(difference_R.mean()))


def gains_of(benchmark: Benchmark, sizes: dict[str, int], runs: Path) -> list[Gain]:
    """The smallest gain of every measured task: of the run's own scores where they are there, else assumed.

    Args:
        benchmark: the tasks.
        sizes: validation records by task.
        runs: folder of the runs.
    """
    current = Run(benchmark, runs / benchmark.name, benchmark.seed)
    rows = table_rows(benchmark, tables_of(benchmark.form)[0])
    common, last = next(iter(rows)), next(reversed(rows))
    found = []
    for task in benchmark.measured:
        unit = task.group or task.name  # without a row of its own (measure: gradient) base and mini are compared
        models = [rows[row][task.name] for row in (common, unit if unit in rows else last)]
        files = [current.metric_file(model, "val", task.name).with_suffix(PER_RECORD) for model in models]
        if all(file.is_file() for file in files):
            without, own = map(read_scores, files)
            if without.keys() == own.keys():
                found.append(measured_gain(task.name, list(without.values()), [own[key] for key in without]))
                continue
        if task.name in sizes:
            found.append(assumed_gain(task, sizes[task.name]))
    return found


def describe_gains(found: Sequence[Gain]) -> list[str]:
    """The lines that `visatb show` prints."""
    if not found:
        return []
    rows = [["validation set", "records", "score", "smallest gain", ""]]
    for gain in found:
        if gain.smallest is None:
            rows.append([gain.task, f"{gain.records:,}", "", "unknown", ""])
            continue
        level = "assumed" if gain.level is None else f"{gain.level:.4g}"
        size = f"{100 * gain.smallest:.1f}% of the score" if gain.relative else f"{gain.smallest:.4f}"
        remark = ""
        if gain.measured is not None:
            word = "distinguishable from 0" if abs(gain.measured) > gain.smallest else "not distinguishable from 0"
            remark = f"measured {gain.measured:+.4f}: {word}"
        rows.append([gain.task, f"{gain.records:,}", level, size, remark])
    normal = NormalDist()
    reach = normal.inv_cdf(0.5 + CONFIDENCE / 2)
    factor = (reach + normal.inv_cdf(POWER)) / reach
    lines = [
        f"smallest gain that the validation sets distinguish from 0 ({CONFIDENCE:.0%}, two models on the same "
        f"records); to be found in {POWER:.0%} of runs, a gain must be {factor:.2f} times as large",
        lay_out(rows),
    ]
    if any(gain.level is None and gain.smallest is not None for gain in found):
        uncorrelated = paired_deviation(1.0, 0.0) / paired_deviation(1.0, CORRELATION)
        lines.append(
            f"assumed: accuracies and other scores of a limited range are at {LEVEL:g} of it; the CIDEr of a record "
            f"scatters by its mean, a judge's score by half of it; the two models' record scores correlate by "
            f"{CORRELATION:g} (uncorrelated: {uncorrelated:.2f} times the gain)"
        )
    return lines
