"""Names and places of everything a run makes. The Snakefile and every step read them here.

runs/<benchmark>/seed<s>/subsets/       training files of the sub-datasets and their manifest
                         models/        one checkpoint folder per model
                         answers/       answer files, one folder per model and split
                         metrics/       metric files, one folder per model and split
                         done/          one record per finished job: when, how long, how much memory
                         scores.csv     validation scores of the N+1 preparation models
                         weights.json   contributions, difficulties, weights
runs/<benchmark>/logs/                  the output of every job
runs/<benchmark>/report.html            and report.json, *.png
"""

import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts_visatb.data.subsets import balanced_units
from visatb.benchmark import Benchmark, Task
from visatb.errors import InputError
from visatb.files import read_text

MINI = "mini"
PLUS_MINI = "-plus-mini"
VISATB = "VisATB"
EW = "EW"
STL = "STL-"

# Keys of `training` and `inference` that say where a job runs. They never change its result, so changing them must
# not repeat it.
PLACEMENT_KEYS = ("threads", "gpus", "launcher")
# The same among the variables of the training script: what it shows and saves, how it reads.
PLACEMENT_VARIABLES = frozenset(
    ("LOGGING_STEPS", "SAVE_STEPS", "SAVE_STRATEGY", "SAVE_TOTAL_LIMIT", "REPORT_TO", "DATALOADER_NUM_WORKERS")
)
# What may be set on Snakemake's command line instead of in the benchmark file.
RUN_KEYS = ("seeds", "runs")


@dataclass(frozen=True)
class Run:
    """One seed of a run.

    Attributes:
        benchmark: tasks and settings.
        folder: `runs/<benchmark>`.
        seed: of the subsets and the trainings.
    """

    benchmark: Benchmark
    folder: Path
    seed: int

    @property
    def home(self) -> Path:
        """The folder of this seed."""
        return self.folder / f"seed{self.seed}"

    @property
    def subsets(self) -> Path:
        """Folder of the sub-datasets."""
        return self.home / "subsets"

    @property
    def scores(self) -> Path:
        """The validation score matrix."""
        return self.home / "scores.csv"

    @property
    def weights(self) -> Path:
        """Result of weighting_visatb.py."""
        return self.home / "weights.json"

    def model(self, name: str) -> Path:
        """Checkpoint folder of a model."""
        return self.home / "models" / name

    def answers(self, model: str, split: str) -> Path:
        """Folder of a model's answers to the questions of a split."""
        return self.home / "answers" / f"{model}_{split}"

    def answer_file(self, model: str, split: str, task: Task) -> Path:
        """Where inference_visatb.py writes the answers of a model to one task's questions."""
        stem = Path(task.files[split]).stem.replace("_", "-")
        return self.answers(model, split) / f"{stem}_{model.replace('_', '-')}.json"

    def metric_file(self, model: str, split: str, task: str) -> Path:
        """The metrics of a model on a task."""
        return self.home / "metrics" / f"{model}_{split}" / f"{task}.json"

    def question_file(self, split: str, task: Task) -> Path:
        """The benchmark's annotation file of a split."""
        return Path(self.benchmark.data_folder) / task.files[split]

    def done(self, job: str) -> Path:
        """The record that exists once a job is finished. It lies outside the model folders: Snakemake deletes a job's
        outputs before repeating it, and a checkpoint to resume from must survive that."""
        return self.home / "done" / f"{job}.json"


def preparation_models(benchmark: Benchmark) -> list[str]:
    """Names of the N+1 preparation models, `mini` first; N counts groups where the benchmark balances groups."""
    return [MINI] + [unit + PLUS_MINI for unit in balanced_units(benchmark)]


def final_models(benchmark: Benchmark) -> list[str]:
    """Names of the models that are compared on the test sets."""
    return [VISATB, EW] + [STL + task.name for task in benchmark.measured]


def training_data(model: str) -> str:
    """The key of a model's training file in the manifest of the sub-datasets."""
    if model == MINI:
        return "mini"
    if model in (VISATB, EW):
        return "entire"
    if model.startswith(STL):
        return f"single/{model.removeprefix(STL)}"
    return f"plus_mini/{model.removesuffix(PLUS_MINI)}"


def evaluated_tasks(benchmark: Benchmark, model: str) -> list[Task]:
    """The tasks a model is scored on: a single-task model on its own, every other on all measured tasks."""
    return [benchmark.task(model.removeprefix(STL))] if model.startswith(STL) else benchmark.measured


def matrix_row(model: str) -> str:
    """How the score matrix names a preparation model: `mini`, or the task (or group) of `task-plus-mini`."""
    return model.removesuffix(PLUS_MINI)


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


def result_settings(section: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a `training` or `inference` section that shapes the result."""
    settings = {key: value for key, value in section.items() if key not in PLACEMENT_KEYS}
    if isinstance(settings.get("environment"), Mapping):
        variables = settings["environment"].items()
        settings["environment"] = {name: value for name, value in variables if name not in PLACEMENT_VARIABLES}
    return settings


def data_inputs(benchmark: Benchmark) -> list[str]:
    """The annotation files that are there before the run: a changed one draws the sub-datasets anew.

    Those that `prepare` makes are its own business. A missing file is left to the step, which tells it by task.
    """
    if benchmark.prepare:
        return []
    names = {name for task in benchmark.tasks for name in task.files.values()}
    paths = [Path(benchmark.data_folder) / name for name in sorted(names)]
    return [str(path) for path in paths if path.is_file()]


def subset_settings(benchmark: Benchmark) -> str:
    """What the sub-datasets depend on beside the data."""
    tasks = [(task.name, task.measured, task.group, task.files) for task in benchmark.tasks]
    folders = (benchmark.data_folder, benchmark.image_folder)
    return settings_key(benchmark.name, tasks, benchmark.mini_rate, benchmark.large_rate, folders)


def training_settings(benchmark: Benchmark) -> str:
    """What a training depends on beside its data and its weights."""
    return settings_key(result_settings(benchmark.training), benchmark.task_names)


def weighting_settings(benchmark: Benchmark) -> str:
    """What weights.json depends on beside the scores, the temperature and the alphas."""
    return settings_key([(task.name, task.group, task.weight) for task in benchmark.tasks])


def inference_settings(benchmark: Benchmark, model: str, split: str) -> str:
    """What the answers depend on beside the model."""
    tasks = [(task.name, task.files[split], task.max_new_tokens) for task in evaluated_tasks(benchmark, model)]
    return settings_key(result_settings(benchmark.inference), tasks)


def scoring_settings(benchmark: Benchmark, model: str) -> str:
    """What the scores depend on beside the answers."""
    return settings_key([(task.name, task.metric) for task in evaluated_tasks(benchmark, model)])


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
    import yaml

    written = yaml.safe_load(read_text(benchmark.path))
    for key, value in config.items():
        if key not in RUN_KEYS and (key not in written or written[key] != value):
            raise InputError(f"--config {key}={value}: must be set in {benchmark.path}. Only seeds and runs go here.")


def placement(section: Mapping[str, Any], key: str, default: int, where: str) -> int:
    """A whole number of a section that says where jobs run: `threads` or `gpus`."""
    value = section.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{where}.{key} must be a whole number >= 0, got {value!r}. Mend the benchmark file.")
    return value


def gpus_visible() -> bool:
    """Whether this machine has an NVIDIA GPU that trainings use (as launch.sh decides): a job then takes it whole."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or os.environ.get("NUM_GPUS") == "0"
    return not hidden and any(Path("/dev").glob("nvidia[0-9]*"))


def seeds_of(config: Mapping[str, Any], benchmark: Benchmark) -> list[int]:
    """The seeds of a run: `--config seeds=[0,1,2]`, or the benchmark's own seed.

    Raises:
        InputError: if they are not distinct whole numbers.
    """
    seeds = config.get("seeds", [benchmark.seed])
    seeds = seeds if isinstance(seeds, list) else [seeds]
    # Snakemake hands the members of a list on as text.
    seeds = [int(seed) if isinstance(seed, str) and seed.isdecimal() else seed for seed in seeds]
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
    if not seeds or not whole or len(set(seeds)) != len(seeds):
        raise InputError(f"seeds must be distinct whole numbers >= 0, got {seeds!r}. Write --config 'seeds=[0,1,2]'.")
    return seeds
