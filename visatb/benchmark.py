"""The definition of a benchmark's tasks, read from YAML by data, training, evaluation, weighting and the run graph.

`scripts_visatb/benchmarks/demo.yaml` is a complete example; docs/benchmarks.md explains every key.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from visatb.errors import InputError, shown
from visatb.inference_section import INFERENCE
from visatb.measure_section import MEASURE, Measure, check_measure
from visatb.sampling import PROPORTIONAL, read_sampling
from visatb.schema import (
    ALPHA,
    LABEL,
    NAMES,
    POSITIVE,
    RATE,
    TEMPERATURE,
    TEXT,
    Before,
    BrokenError,
    Check,
    one_of,
    read,
    refuse_unknown,
    section,
    whole,
)
from visatb.scoring_sections import JUDGE, SPLITS, ZERO_SHOT, ZERO_SHOT_KINDS  # noqa: F401
from visatb.training_section import TRAINING
from visatb.weighting import settings
from visatb.weighting.settings import (  # noqa: F401
    BASE,
    FORMS,
    FULL,
    FULL_MEASURE,
    GRADIENT,
    MEASURES,
    MINI,
    ON_FAILED,
    PRECISE,
    SIMPLER,
    STANDARD,
)
from visatb.yaml_files import read_yaml

METRICS = ("cider", "cider_list", "exact_match", "iou", "gleu", "bleu", "judge")
CORPUS_METRICS = ("bleu",)  # those whose score is not the mean of their records' scores
BOOTSTRAP = 1000

# Models of a run, beside MINI, BASE, FULL and those of `baselines` and `ablations`: names, and what stands before or
# behind a task's.
VISATB = "VisATB"
EW = "EW"
PLUS_MINI = "-plus-mini"
STL = "STL-"
MINI_STL = "mini-STL-"
# Words that tables and folders of a run use for something else.
_TAKEN = (MINI, BASE, FULL, "model", "superseded")

SAMPLING = "sampling:"  # before a value of `task_sampling`, in `baselines`
MEAN = "mean"  # of `weights_from`
WEIGHTS_FROM = ("seed", MEAN)
METHODS = ("EW", "equal", "EWTB", "TLA", "RLW", "DWA", "IGB", "IGBv1", "UW")  # of --weight_method, with file.py:Class


def _check_files(files: Any) -> dict[str, str]:
    if not isinstance(files, dict):
        raise BrokenError(f" must be a mapping, got {shown(files)}. Correct it.")
    refuse_unknown(files, SPLITS)
    for split, file in files.items():
        if not isinstance(file, str) or not file or "\0" in file:
            raise BrokenError(f" must be text, got {shown(file)}. Put it in quotes.", split)
    return files


def _check_baselines(methods: tuple[str, ...]) -> tuple[str, ...]:
    for method in methods:
        if method.startswith(SAMPLING):
            _check_sampling(method)
            continue
        path, _, name = method.rpartition(":")
        if method not in METHODS and not (path and name.isidentifier()):
            known = ", ".join(METHODS)
            raise BrokenError(f" must be of {known}, file.py:Class, or sampling:KIND, got {shown(method)}. Correct it.")
    return methods


def _check_sampling(method: str) -> None:
    kind = method.removeprefix(SAMPLING)
    try:
        read_sampling(kind)
    except ValueError as error:
        raise BrokenError(f": {SAMPLING}{error}") from None
    if kind == PROPORTIONAL:
        raise BrokenError(f": {method} is what EW does. Leave it out.")


def _check_also(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in METRICS:
            raise BrokenError(f" must be one of {', '.join(METRICS)}, got {shown(name)}. Correct it.")
    return names


_FILES = Check(
    _check_files,
    {"type": "object", "properties": {split: {"type": "string"} for split in SPLITS}, "additionalProperties": False},
)


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

    name: Annotated[str, LABEL]
    metric: Annotated[str | None, one_of(*METRICS).or_default()]
    files: Annotated[dict[str, str], _FILES]
    weight: Annotated[float | None, POSITIVE.or_default()] = None
    group: Annotated[str | None, LABEL.or_default()] = None
    max_new_tokens: Annotated[int, whole(1)] = 128
    also: Annotated[tuple[str, ...], NAMES.then(_check_also).or_default(())] = ()

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

    name: Annotated[str, LABEL]
    form: Annotated[str, one_of(*FORMS)]
    temperature: Annotated[float | None, TEMPERATURE]
    alpha: Annotated[tuple[float, float, float], ALPHA]


def _check_tasks(entries: Any) -> list:
    if not isinstance(entries, list) or not entries:
        raise BrokenError(" must be a list of tasks in id order. Add at least one.")
    return entries


def _check_ablations(entries: Any) -> list:
    if not isinstance(entries, list | None):
        raise BrokenError(f" must be a list of {_OF_ABLATIONS}, got {shown(entries)}. Correct it.")
    return entries or []


_OF_ABLATIONS = "mappings with name, form, alpha, temperature"
_TASK, _TASKS = section(Task, "a mapping with name, metric, files"), Before(_check_tasks)
_ABLATION, _ABLATIONS = section(Ablation, f"one of {_OF_ABLATIONS}"), Before(_check_ablations)


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
        measure: how the preparation models are made.
        weights_from: whose weights the first seed's final models are trained with: "seed", its own, or "mean", those of
            the mean scores of all seeds.
        baselines: what to compare with, beside EW and the single-task models: weight methods of `--weight_method`, or
            `sampling:` and a value of `--task_sampling`.
        ablations: other forms, temperatures and alphas to compare with.
        bootstrap: resamples of the validation records for the intervals of the weights; 0 for none.
        judge: flags of eval/judge.py by name, for tasks with that metric.
        zero_shot: flags of llava.eval.suite by name, for the graph's target `zero_shot`.
        data_folder, image_folder: folders of annotation files and of images.
        prepare: shell command that generates the data and the base model, None if they exist.
        training: `script` (path of a finetune script) and `environment` (its variables).
        inference: flags of inference_visatb.py by name.
    """

    name: Annotated[str, LABEL]
    tasks: Annotated[tuple[Annotated[Task, _TASK], ...], _TASKS]
    data_folder: Annotated[str, TEXT]
    image_folder: Annotated[str, TEXT]
    mini_rate: Annotated[float, RATE] = 1.0
    large_rate: Annotated[float, RATE] = 1.0
    form: Annotated[str, one_of(*FORMS)] = STANDARD
    temperature: Annotated[float | None, TEMPERATURE] = settings.DEFAULT_TEMPERATURE
    alpha: Annotated[tuple[float, float, float], ALPHA] = settings.DEFAULT_ALPHA
    on_failed: Annotated[str, one_of(*ON_FAILED)] = ON_FAILED[0]
    weights_from: Annotated[str, one_of(*WEIGHTS_FROM)] = WEIGHTS_FROM[0]
    measure: Annotated[Measure, MEASURE] = Measure()
    baselines: Annotated[tuple[str, ...], NAMES.then(_check_baselines).or_default(())] = ()
    ablations: Annotated[tuple[Annotated[Ablation, _ABLATION], ...], _ABLATIONS] = ()
    bootstrap: Annotated[int, whole()] = BOOTSTRAP
    judge: Annotated[dict[str, Any], JUDGE] = field(default_factory=dict)
    zero_shot: Annotated[dict[str, Any], ZERO_SHOT] = field(default_factory=dict)
    seed: Annotated[int, whole()] = 0
    prepare: Annotated[str | None, TEXT.or_default()] = None
    training: Annotated[dict[str, Any], TRAINING] = field(default_factory=dict)
    inference: Annotated[dict[str, Any], INFERENCE] = field(default_factory=dict)
    path: Path = Path()

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
    benchmark = replace(read(_BENCHMARK, _with_own_settings(content), file), path=file)
    for n, task in enumerate(benchmark.tasks):
        _check_task(task, f"{file}: tasks[{n}]")
    _check_tasks_together(benchmark)
    _check_ablation_names(benchmark)
    _check_forms(benchmark)
    try:
        check_measure(benchmark.measure, benchmark.training, benchmark.inference)
    except BrokenError as error:
        raise InputError(f"{file}: measure.{error.key}{error}") from None
    _check_names(benchmark)
    return benchmark


_BENCHMARK = Annotated[Benchmark, section(Benchmark, given=("path",))]


def json_schema() -> dict[str, Any]:
    """The JSON schema of a benchmark file, for editors."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(Benchmark).json_schema()
    del schema["properties"]["path"]
    schema["properties"]["measure"]["default"] = FULL_MEASURE
    for part in (schema, *schema["$defs"].values()):
        part["additionalProperties"] = False
    schema["$defs"]["Ablation"]["required"] = ["name"]
    schema["$defs"]["Task"]["required"] = ["name", "files"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _with_own_settings(content: dict) -> dict:
    """The content with the benchmark's form, temperature and alpha where an ablation has none."""
    own = {"form": STANDARD, "temperature": settings.DEFAULT_TEMPERATURE, "alpha": list(settings.DEFAULT_ALPHA)}
    own |= {key: content[key] for key in own if key in content}
    entries = content.get("ablations")
    if not isinstance(entries, list):
        return content
    return content | {"ablations": [own | entry if isinstance(entry, dict) else entry for entry in entries]}


def measured_name(kind: str, name: str) -> str:
    """The name of a preparation model that a measure makes otherwise than the measure `full` does."""
    return f"{kind}-{name}"


def method_name(method: str) -> str:
    """The model name of a baseline: its weight method; the class of `path/file.py:Class`; `sampling-KIND`."""
    return method.replace(":", "-") if method.startswith(SAMPLING) else method.rpartition(":")[2]


def _check_names(benchmark: Benchmark) -> None:
    """Refuse names that two models of the run, or a task and a model, would share, because files are named by them."""
    units = dict.fromkeys(task.group or task.name for task in benchmark.measured)
    singles = dict.fromkeys((*units, *(task.name for task in benchmark.measured)))
    named = [(MINI, "the mini mix"), (BASE, "the base model")]
    named += [(unit + PLUS_MINI, f"the model of {unit} and the minis") for unit in units]
    named += [(STL + name, f"the single-task model of {name}") for name in singles]
    named += [(MINI_STL + name, f"the single-task model of {name}'s mini") for name in singles]
    if (kind := benchmark.measure.kind) != FULL_MEASURE:
        named += [(measured_name(kind, name), f"{owner} by measure {kind}") for name, owner in named]
    named += [(EW, "equal weights"), (VISATB, "VisATB")]
    named += [(method_name(method), "a baseline") for method in benchmark.baselines]
    named += [(ablation.name, "an ablation") for ablation in benchmark.ablations]
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


def _check_task(task: Task, where: str) -> None:
    if (task.metric is None) == (task.weight is None):
        raise InputError(f"{where} ({task.name}) must have a metric or a fixed weight, one of the two.")
    for more in task.also:
        if task.metric in (None, more):
            raise InputError(f"{where}.also must add to metric, got {more!r} beside {task.metric!r}. Correct it.")
    missing = [split for split in (SPLITS if task.measured else ("train",)) if split not in task.files]
    if missing:
        raise InputError(f"{where}.files ({task.name}) lacks {', '.join(missing)}. Name the annotation file.")


def _check_forms(benchmark: Benchmark) -> None:
    """Refuse what contributions from gradients have no scores for."""
    if benchmark.measure.kind != GRADIENT:
        return
    forms = {"form": benchmark.form} | {f"ablations[{n}].form": one.form for n, one in enumerate(benchmark.ablations)}
    for key, form in forms.items():
        if form != STANDARD:
            raise InputError(
                f"{benchmark.path}: {key} must be {STANDARD} with measure: gradient, got {form!r}. Change one."
            )
    if benchmark.weights_from == MEAN:
        raise InputError(f"{benchmark.path}: weights_from must be seed with measure: gradient, got {MEAN}. Change one.")


def _check_tasks_together(benchmark: Benchmark) -> None:
    file, listed = benchmark.path, benchmark.task_names
    answered: dict[tuple[str, str], tuple[str, str]] = {}
    for task in benchmark.tasks:
        if listed.count(task.name) > 1:
            raise InputError(f"{file}: task {task.name!r} is listed twice. Name every task once.")
        if task.group in listed:
            raise InputError(f"{file}: {task.group!r} names a task and a group. Rename the group.")
        if benchmark.bootstrap and task.metric in CORPUS_METRICS:
            raise InputError(f"{file}: bootstrap must be 0: {task.name}'s {task.metric} is no mean of records. Set it.")
        if "judge" in (task.metric, *task.also) and "judge-model" not in benchmark.judge:
            raise InputError(f"{file}: judge must name a judge-model, for {task.name} is judged. Set it.")
        for split, name in task.files.items():
            # Answer files are called by the stem of the question file (inference_visatb.py).
            stem = (split, Path(name).stem.replace("_", "-"))
            first, owner = answered.setdefault(stem, (name, task.name))
            if split != "train" and first != name:
                raise InputError(
                    f"{file}: the {split} files of {owner} ({shown(first)}) and {task.name} ({shown(name)}) would "
                    "give answer files of one name. Rename one."
                )


def _check_ablation_names(benchmark: Benchmark) -> None:
    names = [ablation.name for ablation in benchmark.ablations]
    for n, name in enumerate(names):
        key = f"{benchmark.path}: ablations[{n}].name"
        if name in MEASURES:  # weights_lora.json are those of a measure
            raise InputError(f"{key} must not be that of a measure, got {name!r}. Rename it.")
        if name in names[:n]:
            raise InputError(f"{key} must be used once, got {name!r} again. Rename it.")
