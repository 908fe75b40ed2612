"""The one definition of a benchmark's tasks, read from YAML by data, training, evaluation, weighting and the run graph.

`scripts_visatb/benchmarks/demo.yaml` is a complete example; docs/benchmarks.md explains every key.
"""

import math
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from visatb.errors import InputError
from visatb.yaml_files import read_yaml

METRICS = ("cider", "cider_list", "exact_match", "iou", "gleu", "bleu", "judge")
FORMS = STANDARD, SIMPLER, PRECISE = ("standard", "simpler", "precise")
ON_FAILED = ("fail", "exclude", "clip")
AUTO = "auto"
BOOTSTRAP = 1000
SPLITS = ("train", "val", "test")
RESERVED = ("mini", "base")  # models that all others are compared with

# The names that `--weight_method` knows, beside `file.py:Class`.
METHODS = ("EW", "equal", "EWTB", "TLA", "RLW", "DWA", "IGB", "IGBv1", "UW")

# The keys of each mapping.
_TOP_KEYS = (
    "name tasks data_folder image_folder mini_rate large_rate form temperature alpha on_failed baselines ablations "
    "bootstrap judge zero_shot seed prepare training inference"
)
_TASK_KEYS = "name metric also files weight group max_new_tokens"
_ABLATION_KEYS = "name form alpha temperature"
_TRAINING_KEYS = "script environment gpus threads keep_models"
_JUDGE_KEYS = "judge-model judge-url judge-temperature judge-max-tokens rule-file context-file concurrency"
# Flags of the programs but for those that the run graph sets.
_GENERATION_FLAGS = "conv-mode temperature top_p num_beams max_new_tokens seed batch-size workers dtype device"
INFERENCE_FLAGS = f"{_GENERATION_FLAGS} on-bad-image"
ZERO_SHOT_FLAGS = f"benchmarks data split judge-model judge-url processes num-chunks chunk-idx {_GENERATION_FLAGS}"


@dataclass(frozen=True)
class Task:
    """One task of a benchmark.

    Attributes:
        name: the value of the `task` field of its records.
        metric: one of METRICS; None if the task is not measured.
        also: further METRICS that the test answers are scored with; the weighting does not see them.
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
    also: tuple[str, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether the task has a validation score and so takes part in the weighting."""
        return self.metric is not None


@dataclass(frozen=True)
class Ablation:
    """Other weights with the model that is trained with them: another form, temperature or other shares.

    Attributes:
        name: of the model.
        form, temperature, alpha: as in `Benchmark`; its own where the file does not say.
    """

    name: str
    form: str
    temperature: float | None
    alpha: tuple[float, float, float]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: its tasks in id order and the settings of its runs.

    Attributes:
        tasks: in id order; the position is the task id in training and in `--visatb_weights`.
        mini_rate, large_rate: share of every task in the mini and large subsets.
        form: which models are measured: "standard" (Eq. 3-8), "simpler" (Eq. 10, 11) or "precise" (Eq. 12).
        temperature, alpha: T of Eq. 4-7 (None: the lowest that keeps all weights in [0.5, 2]) and (a_out, a_in, a_D)
            of Eq. 8.
        on_failed: what happens to a task whose own data did not raise its score: "fail", "exclude" or "clip".
        baselines: weight methods of `--weight_method` to compare with, beside EW and the single-task models.
        ablations: other forms, temperatures and alphas to compare with.
        bootstrap: resamples of the validation records for the intervals of the weights; 0 leaves them out.
        judge: flags of eval/judge.py by name, for tasks with that metric.
        zero_shot: flags of llava.eval.suite by name, for the graph's target `zero_shot`.
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
    temperature: float | None
    alpha: tuple[float, float, float]
    data_folder: str
    image_folder: str
    form: str = STANDARD
    on_failed: str = ON_FAILED[0]
    baselines: tuple[str, ...] = ()
    ablations: tuple[Ablation, ...] = ()
    bootstrap: int = BOOTSTRAP
    judge: dict[str, Any] = field(default_factory=dict)
    zero_shot: dict[str, Any] = field(default_factory=dict)
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
    file = Path(path)
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: must be a mapping with name, tasks, ...; see benchmarks/demo.yaml.")
    _no_other_keys(content, _TOP_KEYS, file, "")
    tasks = _tasks(content.get("tasks"), file)
    form = _one_of(content.get("form", STANDARD), FORMS, "form", file)
    temperature = _temperature(content.get("temperature", 0.5), "temperature", file)
    alpha = _alpha(content.get("alpha", [0.25, 0.25, 0.5]), "alpha", file)
    return Benchmark(
        path=file,
        name=_label(content, "name", file),
        tasks=tasks,
        mini_rate=_rate(content, "mini_rate", file),
        large_rate=_rate(content, "large_rate", file),
        temperature=temperature,
        alpha=alpha,
        form=form,
        on_failed=_one_of(content.get("on_failed", ON_FAILED[0]), ON_FAILED, "on_failed", file),
        baselines=_baselines(content, file),
        ablations=_ablations(content.get("ablations") or [], Ablation("", form, temperature, alpha), file),
        bootstrap=_bootstrap(content, tasks, file),
        judge=_judge(content, tasks, file),
        zero_shot=_zero_shot(content, file),
        data_folder=_text(content, "data_folder", file),
        image_folder=_text(content, "image_folder", file),
        seed=_whole(content.get("seed", 0), "seed", file),
        prepare=None if content.get("prepare") is None else _text(content, "prepare", file),
        training=_training(content, file),
        inference=_inference(content, file),
    )


def _tasks(entries: Any, file: Path) -> tuple[Task, ...]:
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{file}: tasks must be a list of tasks in id order. Add at least one.")
    tasks = tuple(_task(entry, f"tasks[{n}]", file) for n, entry in enumerate(entries))
    names = [task.name for task in tasks]
    for task in tasks:
        if names.count(task.name) > 1:
            raise InputError(f"{file}: task {task.name!r} is listed twice. Name every task once.")
        if task.measured and (task.group or task.name) in RESERVED:
            raise InputError(
                f"{file}: {task.group or task.name!r} is the name of a common model. Rename the task or group."
            )
        if task.group in names:
            raise InputError(f"{file}: {task.group!r} names a task and a group. Rename the group.")
    return tasks


def _task(entry: Any, key: str, file: Path) -> Task:
    if not isinstance(entry, dict):
        raise InputError(f"{file}: {key} must be a mapping with name, metric, files. Mend it.")
    _no_other_keys(entry, _TASK_KEYS, file, key + ".")
    name = _label(entry, "name", file, key + ".")
    metric, weight = entry.get("metric"), entry.get("weight")
    if (metric is None) == (weight is None):
        raise InputError(f"{file}: {key} ({name}) must have a metric or a fixed weight, one of the two.")
    if metric is not None:
        _one_of(metric, METRICS, f"{key}.metric", file)
    also = _names(entry, "also", file, key + ".")
    for more in also:
        _one_of(more, METRICS, f"{key}.also", file)
        if metric is None or more == metric:
            raise InputError(f"{file}: {key}.also must add to metric, got {more!r} beside {metric!r}. Mend it.")
    group = None if entry.get("group") is None else _label(entry, "group", file, key + ".")
    files = _mapping(entry, "files", file, key + ".")
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
        also=also,
        max_new_tokens=_whole(entry.get("max_new_tokens", 128), f"{key}.max_new_tokens", file, least=1),
    )


def _no_other_keys(mapping: dict, known: str, file: Path, prefix: str) -> None:
    for key in mapping:
        if key not in known.split():
            raise InputError(f"{file}: unknown key {prefix}{key}. Known: {', '.join(sorted(known.split()))}.")


def _no_other_flags(mapping: dict, known: str, file: Path, prefix: str) -> None:
    """Flags are taken in both spellings, with `-` and with `_`."""
    spelled = [name.replace("_", "-") for name in known.split()]
    _no_other_keys({key: 0 for key in mapping if str(key).replace("_", "-") not in spelled}, known, file, prefix)


def _text(mapping: dict, key: str, file: Path, prefix: str = "") -> str:
    value = mapping.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"{file}: {prefix}{key} must be text, got {value!r}. Set it.")
    return value


def _label(mapping: dict, key: str, file: Path, prefix: str = "") -> str:
    """A name that files and folders are called by."""
    value = _text(mapping, key, file, prefix)
    if not all(ch.isalnum() or ch in "-._" for ch in value) or value.startswith("."):
        raise InputError(
            f"{file}: {prefix}{key} must be letters, digits, '-', '.', '_', no '.' first, got {value!r}. Rename it."
        )
    return value


def _training(content: dict, file: Path) -> dict[str, Any]:
    training = _mapping(content, "training", file)
    _no_other_keys(training, _TRAINING_KEYS, file, "training.")
    _mapping(training, "environment", file, "training.")
    keep = training.get("keep_models", True)
    if not isinstance(keep, bool):
        raise InputError(f"{file}: training.keep_models must be true or false, got {keep!r}. Mend it.")
    return training


def _inference(content: dict, file: Path) -> dict[str, Any]:
    inference = _mapping(content, "inference", file)
    if "script" not in inference:  # a program of the user's own has flags of its own
        _no_other_flags(inference, f"script launcher gpus threads {INFERENCE_FLAGS}", file, "inference.")
    return inference


def _zero_shot(content: dict, file: Path) -> dict[str, Any]:
    flags = _mapping(content, "zero_shot", file)
    _no_other_flags(flags, ZERO_SHOT_FLAGS, file, "zero_shot.")
    return flags


def _baselines(content: dict, file: Path) -> tuple[str, ...]:
    methods = _names(content, "baselines", file)
    for method in methods:
        if method not in METHODS and ":" not in method:
            known = ", ".join(METHODS)
            raise InputError(f"{file}: baselines must be of {known} or file.py:Class, got {method!r}. Mend it.")
    return methods


def _bootstrap(content: dict, tasks: tuple[Task, ...], file: Path) -> int:
    resamples = _whole(content.get("bootstrap", BOOTSTRAP), "bootstrap", file)
    for task in tasks:
        if resamples and task.metric == "bleu":
            raise InputError(f"{file}: bootstrap must be 0: {task.name}'s BLEU is no mean over its records. Set it.")
    return resamples


def _mapping(content: dict, key: str, file: Path, prefix: str = "") -> dict[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise InputError(f"{file}: {prefix}{key} must be a mapping, got {value!r}. Mend it.")
    return value


def _is_number(value: Any) -> bool:
    # Comparison, for math.isfinite cannot take whole numbers beyond float64.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


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


def _alpha(value: Any, key: str, file: Path) -> tuple[float, float, float]:
    if not isinstance(value, list) or len(value) != 3 or not all(_is_number(v) and v >= 0 for v in value):
        raise InputError(f"{file}: {key} must be three numbers >= 0 (out, in, difficulty), got {value!r}. Mend it.")
    if not math.isclose(sum(value), 1.0, abs_tol=1e-9):
        raise InputError(f"{file}: {key} must sum to 1 (Eq. 8), got {sum(value)}. Mend it.")
    return tuple(float(v) for v in value)


def _temperature(value: Any, key: str, file: Path) -> float | None:
    if value == AUTO:
        return None
    if not _is_number(value) or value <= 0:
        raise InputError(f"{file}: {key} must be a number > 0 or {AUTO}, got {value!r}. Mend it.")
    return float(value)


def _one_of(value: Any, known: tuple[str, ...], key: str, file: Path) -> str:
    if value not in known:
        raise InputError(f"{file}: {key} must be one of {', '.join(known)}, got {value!r}. Mend it.")
    return value


def _names(mapping: dict, key: str, file: Path, prefix: str = "") -> tuple[str, ...]:
    value = mapping.get(key) or []
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise InputError(f"{file}: {prefix}{key} must be a list of names, got {value!r}. Mend it.")
    if len(set(value)) != len(value):
        raise InputError(f"{file}: {prefix}{key} names one twice: {', '.join(value)}. Name each once.")
    return tuple(value)


def _ablations(entries: Any, own: Ablation, file: Path) -> tuple[Ablation, ...]:
    """The ablations; `own` holds the benchmark's settings, which count where an entry does not say."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{file}: ablations must be a list of mappings with name, form, alpha, temperature. Mend it.")
    found = []
    for n, entry in enumerate(entries):
        key = f"ablations[{n}]"
        _no_other_keys(entry, _ABLATION_KEYS, file, key + ".")
        name = _label(entry, "name", file, key + ".")
        if name in [other.name for other in found]:
            raise InputError(f"{file}: {key}.name must be used once, got {name!r} again. Rename it.")
        changes: dict[str, Any] = {}
        if "form" in entry:
            changes["form"] = _one_of(entry["form"], FORMS, f"{key}.form", file)
        if "temperature" in entry:
            changes["temperature"] = _temperature(entry["temperature"], f"{key}.temperature", file)
        if "alpha" in entry:
            changes["alpha"] = _alpha(entry["alpha"], f"{key}.alpha", file)
        found.append(replace(own, name=name, **changes))
    return tuple(found)


def _judge(content: dict, tasks: tuple[Task, ...], file: Path) -> dict[str, Any]:
    judge = _mapping(content, "judge", file)
    _no_other_keys(judge, _JUDGE_KEYS, file, "judge.")
    judged = [task.name for task in tasks if "judge" in (task.metric, *task.also)]
    if judged and "judge-model" not in judge:
        raise InputError(f"{file}: judge must name a judge-model, for {judged[0]} is judged. Set it.")
    return judge
