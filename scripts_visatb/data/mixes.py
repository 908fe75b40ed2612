"""What each training file of a benchmark holds, and the manifest that lists the files that are written.

Every step of a run reads this, so it imports neither numpy nor what draws the records (`subsets.py`).
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

from visatb.benchmark import SIMPLER, STANDARD, Benchmark, Task
from visatb.files import read_json
from visatb.weighting.settings import SHORT

MANIFEST = "subsets.json"


class Cut(NamedTuple):
    """A share of a task's records, but no more than a number of them."""

    rate: float
    samples: int


Share = float | Cut


def size_label(count: int) -> str:
    """A number of records as written in file names: `998`, `2k`, `475k`."""
    return str(count) if count < 1000 else f"{round(count / 1000)}k"


def rate_of(share: Share, count: int) -> float:
    """The rate at which a share is drawn from that many records."""
    return min(share.rate, share.samples / count) if isinstance(share, Cut) else share


def balanced_units(benchmark: Benchmark) -> dict[str, list[Task]]:
    """Units of the weighting in id order: each measured task, or the tasks of its group."""
    units: dict[str, list[Task]] = {}
    for task in benchmark.measured:
        units.setdefault(task.group or task.name, []).append(task)
    return units


def mixes(benchmark: Benchmark, forms: tuple[str, ...] = (STANDARD,)) -> dict[str, tuple[str, dict[str, Share]]]:
    """Composition of each training file: key of the manifest -> (first part of the file name, share by task).

    Keys: `mini`, `entire`, `plus_mini/<task or group>`, `single/<task>`, `mini_single/<task>`; in the simpler form
    with groups also `single/<group>`, for the contributions between groups. With `samples_per_task` of a measure
    also `short/` before those of large subsets and single tasks.

    Args:
        benchmark: tasks, rates, groups, measure.
        forms: the FORMS that the files are for; the entire mix and the single tasks belong to each.
    """
    mini = dict.fromkeys(benchmark.task_names, benchmark.mini_rate)
    entire = dict.fromkeys(benchmark.task_names, 1.0)
    units = balanced_units(benchmark)
    measured = [task.name for task in benchmark.measured]
    with_minis = forms != (SIMPLER,)
    files = {"mini": (f"{benchmark.name}-mini", mini)} if with_minis else {}
    files["entire"] = (benchmark.name, entire)
    if with_minis:
        for unit, tasks in units.items():
            large = {task.name: benchmark.large_rate for task in tasks}
            files[f"plus_mini/{unit}"] = (f"{unit}-plus-mini", mini | large)
    single = {name: [name] for name in measured}
    if SIMPLER in forms:
        single |= {unit: [task.name for task in tasks] for unit, tasks in units.items()}
    for unit, names in single.items():
        files[f"single/{unit}"] = (unit, dict.fromkeys(names, 1.0))
    if forms != (STANDARD,):
        for name in measured:
            files[f"mini_single/{name}"] = (f"{name}-mini", {name: benchmark.mini_rate})
    return files | _short_mixes(benchmark, files)


def _short_mixes(
    benchmark: Benchmark, files: dict[str, tuple[str, dict[str, Share]]]
) -> dict[str, tuple[str, dict[str, Share]]]:
    """The mixes that a measure cuts: those with large subsets, and single tasks."""
    most = benchmark.measure.samples_per_task
    if most is None:
        return {}
    found = {}
    for key, (stem, mix) in files.items():
        kind, _, unit = key.partition("/")
        if kind in ("plus_mini", "single"):
            cut = {name: Cut(rate, most) if _is_of(benchmark, name, unit) else rate for name, rate in mix.items()}
            found[f"{SHORT}/{key}"] = (f"{SHORT}-{stem}", cut)
    return found


def _is_of(benchmark: Benchmark, name: str, unit: str) -> bool:
    return unit in (name, benchmark.task(name).group)


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """The manifest of a folder of sub-datasets.

    Raises:
        InputError: if there is none, so that the sub-datasets are incomplete.
    """
    return read_json(Path(folder) / MANIFEST)
