"""The definition of a benchmark's tasks, read from YAML by data, training, evaluation, weighting and the run graph.

`scripts_visatb/benchmarks/demo.yaml` is a complete example; docs/benchmarks.md explains every key.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from visatb.benchmark_values import (
    check_flags,
    check_keys,
    check_kinds,
    check_word,
    label,
    list_of,
    mapping_of,
    names,
    one_of,
    positive,
    rate,
    shares,
    temperature_of,
    text,
    whole,
)
from visatb.errors import InputError, shown
from visatb.training_section import read_training
from visatb.weighting import settings
from visatb.weighting.settings import BASE, FORMS, FULL, MINI, ON_FAILED, PRECISE, SIMPLER, STANDARD  # noqa: F401
from visatb.yaml_files import read_yaml

METRICS = ("cider", "cider_list", "exact_match", "iou", "gleu", "bleu", "judge")
CORPUS_METRICS = ("bleu",)  # those whose score is not the mean of their records' scores
BOOTSTRAP = 1000
SPLITS = ("train", "val", "test")

# Models of a run, beside MINI, BASE, FULL and those of `baselines` and `ablations`: names, and what stands before or
# behind a task's.
VISATB = "VisATB"
EW = "EW"
PLUS_MINI = "-plus-mini"
STL = "STL-"
MINI_STL = "mini-STL-"
# Words that tables and folders of a run use for something else.
_TAKEN = (MINI, BASE, FULL, "model", "superseded")

METHODS = ("EW", "equal", "EWTB", "TLA", "RLW", "DWA", "IGB", "IGBv1", "UW")  # of --weight_method, with file.py:Class

# The keys of each mapping.
_TOP_KEYS = (
    "name tasks data_folder image_folder mini_rate large_rate form temperature alpha on_failed baselines ablations "
    "bootstrap judge zero_shot seed prepare training inference"
)
_TASK_KEYS = "name metric also files weight group max_new_tokens"
_ABLATION_KEYS = "name form alpha temperature"
_JUDGE_KINDS = {
    "judge-model": "text",
    "judge-url": "text",
    "judge-temperature": "number",
    "judge-max-tokens": "count",
    "rule-file": "text",
    "context-file": "text",
    "concurrency": "count",
}
# Flags of the programs but for those that the run graph sets.
_GENERATION_KINDS = {
    "conv-mode": "text",
    "temperature": "number",
    "top_p": "number",
    "num_beams": "count",
    "max_new_tokens": "count",
    "seed": "whole",
    "batch-size": "count",
    "workers": "whole",
    "dtype": "text",
    "device": "text",
}
INFERENCE_KINDS = _GENERATION_KINDS | {"on-bad-image": "text"}
ZERO_SHOT_KINDS = _GENERATION_KINDS | {
    "benchmarks": "text",
    "data": "text",
    "split": "text",
    "judge-model": "text",
    "judge-url": "text",
    "processes": "count",
    "num-chunks": "count",
    "chunk-idx": "whole",
}
_PLACE_KINDS = {"script": "text", "launcher": "text", "gpus": "any", "threads": "any"}


@dataclass(frozen=True)
class Task:
    """One task of a benchmark.

    Attributes:
        name: the value of the `task` field of its records.
        metric: one of METRICS; None if the task is not measured.
        also: further METRICS that the test answers are scored with; the weighting does not see them.
        files: split -> annotation file name inside the benchmark's data folder.
        weight: fixed weight of a task that is not measured (not counted in N of Eq. 4-8); None if it is measured.
        group: name of its group (M3IT is balanced by group); None without a group.
        max_new_tokens: maximum length of an answer in evaluation.
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
        """Whether the task has a validation score and is part of the weighting."""
        return self.metric is not None


@dataclass(frozen=True)
class Ablation:
    """Alternative weights and the model trained with them: another form, temperature or alpha.

    Attributes:
        name: of the model.
        form, temperature, alpha: as in `Benchmark`, which gives the defaults.
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
        bootstrap: resamples of the validation records for the intervals of the weights; 0 for none.
        judge: flags of eval/judge.py by name, for tasks with that metric.
        zero_shot: flags of llava.eval.suite by name, for the graph's target `zero_shot`.
        data_folder, image_folder: folders of annotation files and of images.
        prepare: shell command that generates the data and the base model, None if they exist.
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
    check_keys(content, _TOP_KEYS, file, "")
    tasks = _tasks(content.get("tasks"), file)
    form = one_of(content.get("form", STANDARD), FORMS, "form", file)
    temperature = temperature_of(content.get("temperature", settings.DEFAULT_TEMPERATURE), "temperature", file)
    alpha = shares(content.get("alpha", list(settings.DEFAULT_ALPHA)), "alpha", file)
    benchmark = Benchmark(
        path=file,
        name=label(content, "name", file),
        tasks=tasks,
        mini_rate=rate(content, "mini_rate", file),
        large_rate=rate(content, "large_rate", file),
        temperature=temperature,
        alpha=alpha,
        form=form,
        on_failed=one_of(content.get("on_failed", ON_FAILED[0]), ON_FAILED, "on_failed", file),
        baselines=_baselines(content, file),
        ablations=_ablations(content, Ablation("", form, temperature, alpha), file),
        bootstrap=_bootstrap(content, tasks, file),
        judge=_judge(content, tasks, file),
        zero_shot=_zero_shot(content, file),
        data_folder=text(content, "data_folder", file),
        image_folder=text(content, "image_folder", file),
        seed=whole(content.get("seed", 0), "seed", file),
        prepare=None if content.get("prepare") is None else text(content, "prepare", file),
        training=read_training(content, file),
        inference=_inference(content, file),
    )
    _check_names(benchmark)
    return benchmark


def method_name(method: str) -> str:
    """The model name of a weight method; for a custom strategy, `path/file.py:Class`, the class name."""
    return method.rpartition(":")[2]


def _check_names(benchmark: Benchmark) -> None:
    """Refuse names that two models of the run, or a task and a model, would share, because files are named by them."""
    named = [(MINI, "the mini mix"), (BASE, "the base model"), (EW, "equal weights"), (VISATB, "VisATB")]
    named += [(method_name(method), "a baseline") for method in benchmark.baselines]
    named += [(ablation.name, "an ablation") for ablation in benchmark.ablations]
    units = dict.fromkeys(task.group or task.name for task in benchmark.measured)
    named += [(unit + PLUS_MINI, f"the model of {unit} and the minis") for unit in units]
    singles = dict.fromkeys((*units, *(task.name for task in benchmark.measured)))
    named += [(STL + name, f"the single-task model of {name}") for name in singles]
    named += [(MINI_STL + name, f"the single-task model of {name}'s mini") for name in singles]
    owners: dict[str, str] = {}
    for name, owner in named:
        if name in owners or name in _TAKEN[2:]:
            other = owners.get(name, "a table or folder of the run")
            raise InputError(
                f"{benchmark.path}: {name!r} would be the name of {other} and of {owner}. Rename the task, the "
                "baseline or the ablation."
            )
        owners[name] = owner
    owners |= {f"{name}-mini": f"the mini subset of {name}" for name in (benchmark.name, *singles)}
    for name in (*benchmark.task_names, *units):
        if name in owners or name in _TAKEN:
            other = owners.get(name, "a table or folder")
            raise InputError(f"{benchmark.path}: {name!r} is the name of {other} of a run. Rename the task or group.")


def _tasks(entries: Any, file: Path) -> tuple[Task, ...]:
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{file}: tasks must be a list of tasks in id order. Add at least one.")
    tasks = tuple(_task(entry, f"tasks[{n}]", file) for n, entry in enumerate(entries))
    listed = [task.name for task in tasks]
    answered: dict[tuple[str, str], tuple[str, str]] = {}
    for task in tasks:
        if listed.count(task.name) > 1:
            raise InputError(f"{file}: task {task.name!r} is listed twice. Name every task once.")
        if task.group in listed:
            raise InputError(f"{file}: {task.group!r} names a task and a group. Rename the group.")
        for split, name in task.files.items():
            # Answer files are called by the stem of the question file (inference_visatb.py).
            stem = (split, Path(name).stem.replace("_", "-"))
            first, owner = answered.setdefault(stem, (name, task.name))
            if split != "train" and first != name:
                raise InputError(
                    f"{file}: the {split} files of {owner} ({shown(first)}) and {task.name} ({shown(name)}) would "
                    "give answer files of one name. Rename one."
                )
    return tasks


def _task(entry: Any, key: str, file: Path) -> Task:
    if not isinstance(entry, dict):
        raise InputError(f"{file}: {key} must be a mapping with name, metric, files. Correct it.")
    check_keys(entry, _TASK_KEYS, file, key + ".")
    name = label(entry, "name", file, key + ".")
    metric, weight = entry.get("metric"), entry.get("weight")
    if (metric is None) == (weight is None):
        raise InputError(f"{file}: {key} ({name}) must have a metric or a fixed weight, one of the two.")
    if metric is not None:
        one_of(metric, METRICS, f"{key}.metric", file)
    also = names(entry, "also", file, key + ".")
    for more in also:
        one_of(more, METRICS, f"{key}.also", file)
        if metric is None or more == metric:
            raise InputError(f"{file}: {key}.also must add to metric, got {more!r} beside {metric!r}. Correct it.")
    group = None if entry.get("group") is None else label(entry, "group", file, key + ".")
    files = mapping_of(entry, "files", file, key + ".")
    check_keys(files, " ".join(SPLITS), file, f"{key}.files.")
    needed = SPLITS if metric is not None else ("train",)
    missing = [split for split in needed if files.get(split) is None]
    if missing:
        raise InputError(f"{file}: {key}.files ({name}) lacks {', '.join(missing)}. Name the annotation file.")
    for split in files:
        check_word(text(files, split, file, f"{key}.files."), f"{key}.files.{split}", file)
    return Task(
        name=name,
        metric=metric,
        files=dict(files),
        weight=None if weight is None else positive(weight, f"{key}.weight", file),
        group=group,
        also=also,
        max_new_tokens=whole(entry.get("max_new_tokens", 128), f"{key}.max_new_tokens", file, least=1),
    )


def _inference(content: dict, file: Path) -> dict[str, Any]:
    inference = mapping_of(content, "inference", file)
    for key in ("gpus", "threads"):
        whole(inference.get(key, 0), f"inference.{key}", file)
    own = "script" in inference  # a program of the user's own has flags of its own
    kinds = _PLACE_KINDS | ({} if own else INFERENCE_KINDS)
    check_flags(inference, None if own else kinds, file, "inference.")
    check_kinds(inference, kinds, file, "inference.")
    return inference


def _zero_shot(content: dict, file: Path) -> dict[str, Any]:
    flags = mapping_of(content, "zero_shot", file)
    check_flags(flags, ZERO_SHOT_KINDS, file, "zero_shot.")
    check_kinds(flags, ZERO_SHOT_KINDS, file, "zero_shot.")
    return flags


def _baselines(content: dict, file: Path) -> tuple[str, ...]:
    methods = names(content, "baselines", file)
    for method in methods:
        path, _, name = method.rpartition(":")
        if method not in METHODS and not (path and name.isidentifier()):
            known = ", ".join(METHODS)
            raise InputError(f"{file}: baselines must be of {known} or file.py:Class, got {shown(method)}. Correct it.")
    return methods


def _bootstrap(content: dict, tasks: tuple[Task, ...], file: Path) -> int:
    resamples = whole(content.get("bootstrap", BOOTSTRAP), "bootstrap", file)
    for task in tasks:
        if resamples and task.metric in CORPUS_METRICS:
            raise InputError(f"{file}: bootstrap must be 0: {task.name}'s {task.metric} is no mean of records. Set it.")
    return resamples


def _ablations(content: dict, own: Ablation, file: Path) -> tuple[Ablation, ...]:
    """The ablations; `own` has the benchmark's settings, which are the defaults of an entry."""
    shape = "mappings with name, form, alpha, temperature"
    found: list[Ablation] = []
    for n, entry in enumerate(list_of(content, "ablations", file, of=shape)):
        key = f"ablations[{n}]"
        if not isinstance(entry, dict):
            raise InputError(f"{file}: {key} must be one of {shape}, got {shown(entry)}. Correct it.")
        check_keys(entry, _ABLATION_KEYS, file, key + ".")
        name = label(entry, "name", file, key + ".")
        if name in [other.name for other in found]:
            raise InputError(f"{file}: {key}.name must be used once, got {name!r} again. Rename it.")
        changes: dict[str, Any] = {}
        if "form" in entry:
            changes["form"] = one_of(entry["form"], FORMS, f"{key}.form", file)
        if "temperature" in entry:
            changes["temperature"] = temperature_of(entry["temperature"], f"{key}.temperature", file)
        if "alpha" in entry:
            changes["alpha"] = shares(entry["alpha"], f"{key}.alpha", file)
        found.append(replace(own, name=name, **changes))
    return tuple(found)


def _judge(content: dict, tasks: tuple[Task, ...], file: Path) -> dict[str, Any]:
    judge = mapping_of(content, "judge", file)
    check_keys(judge, " ".join(_JUDGE_KINDS), file, "judge.")
    kinds = dict(_JUDGE_KINDS)
    if isinstance(contexts := judge.get("context-file"), dict):
        check_keys(contexts, " ".join(SPLITS), file, "judge.context-file.")
        check_kinds(contexts, dict.fromkeys(SPLITS, "text"), file, "judge.context-file.")
        del kinds["context-file"]
    check_kinds(judge, kinds, file, "judge.", numbers_as_text=False)
    judged = [task.name for task in tasks if "judge" in (task.metric, *task.also)]
    if judged and "judge-model" not in judge:
        raise InputError(f"{file}: judge must name a judge-model, for {judged[0]} is judged. Set it.")
    return judge
