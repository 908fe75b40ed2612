"""The one definition of a benchmark's tasks, read from YAML by data, training, evaluation, weighting and the run graph.

`scripts_visatb/benchmarks/demo.yaml` is a complete example; docs/benchmarks.md explains every key.
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visatb.errors import InputError
from visatb.files import read_text

METRICS = ("cider", "cider_list", "exact_match", "iou")
SPLITS = ("train", "val", "test")

_TOP_KEYS = {
    "name",
    "tasks",
    "data_folder",
    "image_folder",
    "mini_rate",
    "large_rate",
    "temperature",
    "alpha",
    "seed",
    "prepare",
    "training",
    "inference",
}
_TASK_KEYS = {"name", "metric", "files", "weight", "group", "max_new_tokens"}


@dataclass(frozen=True)
class Task:
    """One task of a benchmark.

    Attributes:
        name: the value of the `task` field of its records.
        metric: one of METRICS; None if the task is not measured.
        files: split -> annotation file name inside the benchmark's data folder.
        weight: fixed weight of a task that is not measured (outside N in Eq. 4-8); None if it is measured.
        group: name of its group (M3IT is balanced by group); None if the task stands for itself.
        max_new_tokens: longest answer to generate when it is evaluated.
    """

    name: str
    metric: str | None
    files: dict[str, str]
    weight: float | None = None
    group: str | None = None
    max_new_tokens: int = 128

    @property
    def measured(self) -> bool:
        """Whether the task has a validation score and so takes part in the weighting."""
        return self.metric is not None


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: its tasks in id order and the settings of its runs.

    Attributes:
        tasks: in id order; the position is the task id in training and in `--visatb_weights`.
        mini_rate, large_rate: share of every task in the mini and large subsets.
        temperature, alpha: T of Eq. 4-7 and (a_out, a_in, a_D) of Eq. 8.
        data_folder, image_folder: folders of annotation files and of images.
        prepare: shell command that makes the data and the base model, None if they are there.
        training: `script` (path of a finetune script) and `environment` (its variables).
        inference: flags of inference_visatb.py by name.
    """

    path: Path
    name: str
    tasks: tuple[Task, ...]
    mini_rate: float
    large_rate: float
    temperature: float
    alpha: tuple[float, float, float]
    data_folder: str
    image_folder: str
    seed: int = 0
    prepare: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    inference: dict[str, Any] = field(default_factory=dict)

    @property
    def task_names(self) -> list[str]:
        """All task names in id order."""
        return [task.name for task in self.tasks]

    @property
    def measured(self) -> list[Task]:
        """The N measured tasks in id order."""
        return [task for task in self.tasks if task.measured]

    def task(self, name: str) -> Task:
        """The task of that name. Raises InputError if there is none."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise InputError(f"{self.path}: no task {name!r}; it has {', '.join(self.task_names)}. Check the name.")


def load_benchmark(path: str | os.PathLike) -> Benchmark:
    """Read and check a benchmark file.

    Raises:
        InputError: naming file, key and rule, or that PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise InputError(
            f"{path}: reading YAML needs PyYAML, which is not installed. Run pip install pyyaml."
        ) from None

    file = Path(path)
    try:
        content = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise InputError(f"{file}: broken YAML: {' '.join(str(error).split())}. Mend the file.") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: must be a mapping with name, tasks, ...; see benchmarks/demo.yaml.")
    _no_other_keys(content, _TOP_KEYS, file, "")
    tasks = _tasks(content.get("tasks"), file)
    return Benchmark(
        path=file,
        name=_text(content, "name", file),
        tasks=tasks,
        mini_rate=_rate(content, "mini_rate", file),
        large_rate=_rate(content, "large_rate", file),
        temperature=_positive(content.get("temperature", 0.5), "temperature", file),
        alpha=_alpha(content.get("alpha", [0.25, 0.25, 0.5]), file),
        data_folder=_text(content, "data_folder", file),
        image_folder=_text(content, "image_folder", file),
        seed=_whole(content.get("seed", 0), "seed", file),
        prepare=content.get("prepare"),
        training=_mapping(content, "training", file),
        inference=_mapping(content, "inference", file),
    )


def _tasks(entries: Any, file: Path) -> tuple[Task, ...]:
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{file}: tasks must be a list of tasks in id order. Add at least one.")
    tasks = tuple(_task(entry, f"tasks[{n}]", file) for n, entry in enumerate(entries))
    names = [task.name for task in tasks]
    for task in tasks:
        if names.count(task.name) > 1:
            raise InputError(f"{file}: task {task.name!r} is listed twice. Name every task once.")
        if task.group in names:
            raise InputError(f"{file}: {task.group!r} names a task and a group. Rename the group.")
    return tasks


def _task(entry: Any, key: str, file: Path) -> Task:
    if not isinstance(entry, dict):
        raise InputError(f"{file}: {key} must be a mapping with name, metric, files. Mend it.")
    _no_other_keys(entry, _TASK_KEYS, file, key + ".")
    name = _text(entry, "name", file, key + ".")
    if not all(ch.isalnum() or ch in "-._" for ch in name):
        raise InputError(f"{file}: {key}.name must be letters, digits, '-', '.', '_', got {name!r}. Rename the task.")
    metric, weight = entry.get("metric"), entry.get("weight")
    if (metric is None) == (weight is None):
        raise InputError(f"{file}: {key} ({name}) must have a metric or a fixed weight, one of the two.")
    if metric is not None and metric not in METRICS:
        raise InputError(f"{file}: {key}.metric must be one of {', '.join(METRICS)}, got {metric!r}. Mend it.")
    group = entry.get("group")
    if group is not None and (not isinstance(group, str) or not group):
        raise InputError(f"{file}: {key}.group must be text, got {group!r}. Mend it.")
    files = entry.get("files") or {}
    if not isinstance(files, dict):
        raise InputError(f"{file}: {key}.files must be a mapping of splits to file names, got {files!r}. Mend it.")
    needed = SPLITS if metric is not None else ("train",)
    missing = [split for split in needed if not isinstance(files.get(split), str)]
    if missing:
        raise InputError(f"{file}: {key}.files ({name}) lacks {', '.join(missing)}. Name the annotation file.")
    return Task(
        name=name,
        metric=metric,
        files=dict(files),
        weight=None if weight is None else _positive(weight, f"{key}.weight", file),
        group=group,
        max_new_tokens=_whole(entry.get("max_new_tokens", 128), f"{key}.max_new_tokens", file, least=1),
    )


def _no_other_keys(mapping: dict, known: set[str], file: Path, prefix: str) -> None:
    for key in mapping:
        if key not in known:
            raise InputError(f"{file}: unknown key {prefix}{key}. Known: {', '.join(sorted(known))}.")


def _text(mapping: dict, key: str, file: Path, prefix: str = "") -> str:
    value = mapping.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"{file}: {prefix}{key} must be text, got {value!r}. Set it.")
    return value


def _mapping(content: dict, key: str, file: Path) -> dict[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise InputError(f"{file}: {key} must be a mapping, got {value!r}. Mend it.")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: Any, key: str, file: Path) -> float:
    if not _is_number(value) or value <= 0:
        raise InputError(f"{file}: {key} must be a number > 0, got {value!r}. Mend it.")
    return float(value)


def _rate(content: dict, key: str, file: Path) -> float:
    value = _positive(content.get(key, 1.0), key, file)
    if value > 1:
        raise InputError(f"{file}: {key} must be at most 1, got {value}. It is a share of each task's data.")
    return value


def _whole(value: Any, key: str, file: Path, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{file}: {key} must be a whole number >= {least}, got {value!r}. Mend it.")
    return value


def _alpha(value: Any, file: Path) -> tuple[float, float, float]:
    if not isinstance(value, list) or len(value) != 3 or not all(_is_number(v) and v >= 0 for v in value):
        raise InputError(f"{file}: alpha must be three numbers >= 0 (out, in, difficulty), got {value!r}. Mend it.")
    if not math.isclose(sum(value), 1.0, abs_tol=1e-9):
        raise InputError(f"{file}: alpha must sum to 1 (Eq. 8), got {sum(value)}. Mend it.")
    return tuple(float(v) for v in value)
