"""What each step of the run graph depends on, and what the Snakefile takes from a benchmark and a command line."""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scripts_visatb.data.mixes import Share, mixes
from scripts_visatb.workflow.models import Model, drawn_forms
from scripts_visatb.workflow.sources import base_stamps, content_key, file_stamp
from visatb.benchmark import MEAN, SPLITS, Ablation, Benchmark, Task
from visatb.errors import InputError
from visatb.sampling import PROPORTIONAL
from visatb.schema import AUTO
from visatb.training_section import PLACEMENT_VARIABLES, plain_value
from visatb.weighting.settings import FULL_MEASURE, GRADIENT
from visatb.yaml_files import read_yaml

# Keys of `training` and `inference` that say where a job runs. They never change its result, so changing them must
# not repeat it.
PLACEMENT_KEYS = ("threads", "gpus", "launcher", "keep_models")
# What may be set on Snakemake's command line instead of in the benchmark file.
RUN_KEYS = ("seeds", "runs")
# Rules of the graph that are no steps, but name what is to be made.
TARGETS = ("weights", "main", "baselines", "ablations", "all", "zero_shot")


def task_weights(benchmark: Benchmark, weights: Mapping[str, float]) -> list[float]:
    """The weight of every task in id order: computed for measured tasks, fixed for the others.

    Args:
        benchmark: the tasks.
        weights: measured task -> weight, as weighting_visatb.py found it.

    Raises:
        InputError: if a measured task has no weight.
    """
    missing = [task.name for task in benchmark.measured if task.name not in weights]
    if missing:
        raise InputError(f"weights lack the task(s) {', '.join(missing)} of {benchmark.path}. Compute them again.")
    return [weights[task.name] if task.measured else task.weight for task in benchmark.tasks]


def settings_key(*parts: Any) -> str:
    """Settings as one line of text, the same for equal settings: what Snakemake compares to see a change.

    Braces become angle brackets: Snakemake would take them for placeholders.
    """
    return json.dumps(parts, sort_keys=True, default=str).translate(str.maketrans("{}", "<>"))


def short_key(settings: str) -> str:
    """A digest of settings, for a command line and a record."""
    return hashlib.sha256(settings.encode()).hexdigest()


def result_settings(section: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a `training` or `inference` section that shapes the result, the same for all spellings of a value."""
    # Of inference_visatb.py: threads that read images, and how a server is asked.
    neutral = (*PLACEMENT_KEYS, "workers", "concurrency", "retries", "timeout")
    settings = {key: value for key, value in section.items() if key not in neutral}
    if variables := settings.get("environment"):
        settings["environment"] = {
            name: plain_value(name, value) for name, value in variables.items() if name not in PLACEMENT_VARIABLES
        }
    return settings


def subset_settings(benchmark: Benchmark, digests: Mapping[str, list]) -> str:
    """What the sub-datasets, and the check of all data that comes with them, depend on."""
    tasks = [
        (
            task.name,
            task.measured,
            task.group,
            [content_key(benchmark, task.files[split], digests) for split in SPLITS if split in task.files],
        )
        for task in benchmark.tasks
    ]
    folders = (benchmark.data_folder, benchmark.image_folder)
    rates = (benchmark.mini_rate, benchmark.large_rate)
    short = [] if benchmark.measure.samples_per_task is None else [benchmark.measure.samples_per_task]
    return settings_key(benchmark.name, tasks, rates, folders, drawn_forms(benchmark), *short)


def mix_of(benchmark: Benchmark, model: Model) -> dict[str, Share]:
    """The tasks that a model is trained on, in the order of its training file, with the share of each."""
    return mixes(benchmark, drawn_forms(benchmark))[model.data][1]


def data_key(benchmark: Benchmark, model: Model, digests: Mapping[str, list]) -> list[tuple[str, Share, str]]:
    """What a training learns from: tasks, shares, and the annotation files they come from, by content.

    Not the bytes of the training file: another task that uses the same ids changes the ids in a file.
    """
    files = {task.name: task.files["train"] for task in benchmark.tasks}
    mix = mix_of(benchmark, model)
    return [(name, share, content_key(benchmark, files[name], digests)) for name, share in mix.items()]


def training_settings(benchmark: Benchmark, model: Model, digests: Mapping[str, list]) -> str:
    """What a training depends on beside its weights: the recipe, and of the data only what its own mix holds.

    A base model that `prepare` makes is not there when a run is planned; its trainings notice another one themselves.
    """
    training = model.measure.training(benchmark.training)
    base = {} if benchmark.prepare else base_stamps(training)
    recipe = result_settings(training)
    method = model.method if model.sampling == PROPORTIONAL else f"{model.method}, sampling {model.sampling}"
    # Back at weights that are older than the model trained with others, their date alone would repeat nothing.
    weights = [f"weights{benchmark.measure.suffix}, {benchmark.weights_from}"] if model.weighting else []
    weights = weights if weights != ["weights, seed"] else []  # as settings were written before there was a choice
    return settings_key(recipe, data_key(benchmark, model, digests), method, base, *weights)


def weighting_settings(benchmark: Benchmark, weighting: Ablation) -> str:
    """What a weights.json depends on beside the scores."""
    tasks = [(task.name, task.group, task.weight) for task in benchmark.tasks]
    settings = (weighting.form, weighting.temperature, weighting.alpha, benchmark.on_failed, benchmark.bootstrap)
    return settings_key(tasks, *settings)


def weighting_flags(benchmark: Benchmark, weighting: Ablation) -> str:
    """The flags of weighting_visatb.py that say how the scores are weighed."""
    temperature = AUTO if weighting.temperature is None else repr(weighting.temperature)
    alpha = " ".join(map(repr, weighting.alpha))
    flags = f"--temperature {temperature} --alpha {alpha} --on-failed {benchmark.on_failed}"
    if benchmark.measure.kind == GRADIENT:  # which is a form of its own
        return flags
    return f"--form {weighting.form} {flags}" + measure_flag(benchmark)


def measure_flag(benchmark: Benchmark) -> str:
    """The flag of weighting_visatb.py that says how the models were made whose scores it is given."""
    return f" --measure {benchmark.measure.kind}" if benchmark.measure.kind != FULL_MEASURE else ""


def bootstrap_flags(benchmark: Benchmark, home: str) -> str:
    """The flags that give weights intervals, from the per-record scores of a seed."""
    if not benchmark.bootstrap or benchmark.measure.kind == GRADIENT:
        return ""
    return f"--bootstrap {benchmark.bootstrap} --per-record {shlex.quote(home + '/metrics')}"


def inference_settings(benchmark: Benchmark, model: Model, split: str, digests: Mapping[str, list]) -> str:
    """What the answers depend on beside the model."""
    tasks = [
        (task.name, task.files[split], content_key(benchmark, task.files[split], digests), task.max_new_tokens)
        for task in model.tasks(split)
    ]
    merged = ["merged"] if model.measure.merge else []
    return settings_key(result_settings(benchmark.inference), tasks, *merged)


def gradient_settings(benchmark: Benchmark, digests: Mapping[str, list]) -> str:
    """What contributions from gradients depend on beside the model."""
    files = [
        (task.name, task.group, [content_key(benchmark, task.files[split], digests) for split in ("train", "val")])
        for task in benchmark.measured
    ]
    return settings_key(dict(benchmark.measure.flags), files)


def suite_settings(benchmark: Benchmark) -> str:
    """What the zero-shot suite's answers depend on beside the model."""
    engine = {key: benchmark.inference[key] for key in ("engine", "start") if benchmark.inference.get(key)}
    return settings_key(benchmark.zero_shot, *([engine] if engine else []))


def scoring_settings(benchmark: Benchmark, model: Model, split: str) -> str:
    """What the scores depend on beside the answers."""
    tasks = [(task.name, *metrics_of(task, split)) for task in model.tasks(split)]
    if not any("judge" in metrics for _, *metrics in tasks):
        return settings_key(tasks)
    settings = {key: value for key, value in benchmark.judge.items() if key != "concurrency"}
    contexts = settings.get("context-file")
    read = [settings.get("rule-file"), contexts.get(split) if isinstance(contexts, dict) else contexts]
    return settings_key(tasks, settings, [file_stamp(Path(name)) for name in read if name and Path(name).is_file()])


def metrics_of(task: Task, split: str) -> tuple[str, ...]:
    """The metrics of a task in a split: its own, and on the test set the further ones."""
    return (task.metric, *task.also) if split == "test" else (task.metric,)


def any_of(names: Iterable[str]) -> str:
    """A regular expression for exactly these names."""
    return "|".join(map(re.escape, names))


def shell_word(text: str) -> str:
    """Text as one word of a Snakemake shell command: quoted, its braces not taken for placeholders."""
    return shlex.quote(text).replace("{", "{{").replace("}", "}}")


def refuse_overrides(config: Mapping[str, Any], benchmark: Benchmark) -> None:
    """Refuse `--config` settings that would be ignored: every step reads the benchmark file itself.

    Raises:
        InputError: naming the setting.
    """
    written = read_yaml(benchmark.path)
    for key, value in config.items():
        if key not in RUN_KEYS and (key not in written or written[key] != value):
            raise InputError(f"--config {key}={value}: must be set in {benchmark.path}. Only seeds and runs go here.")


def gpus_visible() -> bool:
    """Whether this machine has an NVIDIA GPU that trainings use (as launch.sh decides): a job then takes it whole."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or os.environ.get("NUM_GPUS") == "0"
    return not hidden and any(Path("/dev").glob("nvidia[0-9]*"))


def seeds_of(config: Mapping[str, Any], benchmark: Benchmark) -> list[int]:
    """The seeds of a run: `--config seeds=[0,1,2]`, or the benchmark's own seed.

    Raises:
        InputError: if they are not distinct whole numbers, or one where weights come from the mean of several.
    """
    seeds = config.get("seeds", [benchmark.seed])
    seeds = seeds if isinstance(seeds, list) else [seeds]
    # Snakemake hands the members of a list on as text.
    seeds = [int(seed) if isinstance(seed, str) and seed.isdecimal() else seed for seed in seeds]
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
    if not seeds or not whole or len(set(seeds)) != len(seeds):
        raise InputError(f"seeds must be distinct whole numbers >= 0, got {seeds!r}. Write --config 'seeds=[0,1,2]'.")
    if benchmark.weights_from == MEAN and len(seeds) < 2:
        raise InputError(f"{benchmark.path}: weights_from: {MEAN} needs several seeds, got {seeds}. Add --seeds 0 1 2.")
    return seeds
