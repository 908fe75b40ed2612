"""Places of everything a run makes and what each step depends on. The Snakefile and every step read them here.

runs/<benchmark>/seed<s>/subsets/       training files of the sub-datasets and their manifest
                         models/        one checkpoint folder per model (their names: models.py)
                         served/        copies of models while a server has them
                         answers/       answer files, one folder per model and split
                         metrics/       metric files, one folder per model and split
                         replies/       what the judge said, one file per model, split and task
                         done/          one record per finished job: when, how long, how much memory
                         scores.csv     validation scores of the N+1 preparation models
                         scores_simpler.csv  of the base and the single-task models (simpler form)
                         single_scores.csv   of single-task models on little and on all data (simpler, precise)
                         weights.json   contributions, difficulties, weights; weights_<ablation>.json
runs/<benchmark>/logs/                  the output of every job
runs/<benchmark>/weights.json           of several seeds together: mean and standard error; weights_<ablation>.json
runs/<benchmark>/report.html            and report.json, *.png, tables/
"""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts_visatb.data.subsets import mixes
from scripts_visatb.workflow.models import BASE, VISATB, Model, drawn_forms
from visatb.benchmark import MEAN, SPLITS, Ablation, Benchmark, Task
from visatb.errors import InputError
from visatb.files import read_json
from visatb.sampling import PROPORTIONAL
from visatb.schema import AUTO
from visatb.training_section import BASE_VARIABLES, PLACEMENT_VARIABLES, plain_value
from visatb.yaml_files import read_yaml

DIGESTS = ".digests.json"  # in the folder of a run: see `data_digests`
ADAPTER_CONFIG = "adapter_config.json"  # in the folder of a model that holds LoRA adapters alone

# Keys of `training` and `inference` that say where a job runs. They never change its result, so changing them must
# not repeat it.
PLACEMENT_KEYS = ("threads", "gpus", "launcher", "keep_models")
_STAMP_BYTES = 1 << 20
# What may be set on Snakemake's command line instead of in the benchmark file.
RUN_KEYS = ("seeds", "runs")
# Rules of the graph that are no steps, but name what is to be made.
TARGETS = ("weights", "main", "baselines", "ablations", "all", "zero_shot")


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

    def table(self, name: str) -> Path:
        """One of the tables of validation scores (models.TABLES)."""
        return self.home / f"{name}.csv"

    def weights(self, model: str = VISATB) -> Path:
        """Result of weighting_visatb.py for VisATB or an ablation."""
        return self.home / f"weights{variant_of(model)}.json"

    def training_weights(self, model: str = VISATB) -> Path:
        """The weights that a model is trained with: this seed's, or those of all seeds (`weights_from`)."""
        own = self.weights(model)
        return self.folder / own.name if self.benchmark.weights_from == MEAN else own

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
        """The metrics of a model on a task; of a further metric with `<task>:<metric>`."""
        return self.home / "metrics" / f"{model}_{split}" / f"{task}.json"

    def reply_file(self, model: str, split: str, task: str) -> Path:
        """What the judge said of a model's answers."""
        return self.home / "replies" / f"{model}_{split}" / f"{task}.jsonl"

    def question_file(self, split: str, task: Task) -> Path:
        """The benchmark's annotation file of a split."""
        return Path(self.benchmark.data_folder) / task.files[split]

    def done(self, job: str) -> Path:
        """The record that exists once a job is finished. It lies outside the model folders: Snakemake deletes a job's
        outputs before repeating it, and a checkpoint to resume from must survive that."""
        return self.home / "done" / f"{job}.json"


def model_place(current: Run, model: str) -> tuple[str, str | None]:
    """Where a model's weights are, as inference takes them: its path, and the base model it belongs to or None.

    The base of a run is what its trainings start from: a whole checkpoint, or a language model with the projector of
    stage 1, whose folder inference takes like an adapter's.

    Raises:
        InputError: if the benchmark names no base model where one is needed.
    """
    recipe = current.benchmark.training.get("environment") or {}
    base = recipe.get("BASE_MODEL_PATH")
    where = f"{current.benchmark.path}: training.environment.BASE_MODEL_PATH"
    if model == BASE:
        projector = recipe.get("PRETRAIN_MM_MLP_ADAPTER")
        if not base:
            raise InputError(f"{where} must name the base model, which this form of the weights scores. Set it.")
        return (str(Path(projector).parent), str(base)) if projector else (str(base), None)
    folder = current.model(model)
    file = folder / ADAPTER_CONFIG
    if not file.is_file():
        return str(folder), None
    base = base or read_json(file).get("base_model_name_or_path")
    if not base:
        raise InputError(f"{file}: no base model. Set {where} in the benchmark file.")
    return str(folder), str(base)


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


def annotation_files(benchmark: Benchmark) -> list[Path]:
    """The annotation files that a benchmark names."""
    names = {name for task in benchmark.tasks for name in task.files.values()}
    return [Path(benchmark.data_folder) / name for name in sorted(names)]


def data_digests(benchmark: Benchmark, cache: str | os.PathLike) -> dict[str, list]:
    """Annotation file that is there before the run -> [size, time of change in ns, SHA-256], as `cache` holds it.

    What `prepare` makes is its own business. A missing file is left to the step that reads it.

    Args:
        benchmark: the files.
        cache: JSON of an earlier result; a file whose size and time are as they were is not read again.
    """
    known = read_json(cache) if Path(cache).is_file() else {}
    found = {}
    for path in [] if benchmark.prepare else annotation_files(benchmark):
        if not path.is_file():
            continue
        about = path.stat()
        earlier = known.get(str(path), [None, None, None])
        if earlier[:2] != [about.st_size, about.st_mtime_ns]:
            with open(path, "rb") as stream:
                earlier = [about.st_size, about.st_mtime_ns, hashlib.file_digest(stream, "sha256").hexdigest()]
        found[str(path)] = earlier
    return found


def content_key(benchmark: Benchmark, name: str, digests: Mapping[str, list]) -> str:
    """What stands for the content of an annotation file in settings: its digest, or its name where there is none."""
    path = str(Path(benchmark.data_folder) / name)
    return digests[path][2] if path in digests else name


def missing(benchmark: Benchmark) -> list[str]:
    """What a run needs and does not find, a sentence each; nothing where `prepare` makes it.

    A base model or vision tower that is no path here may be a name on the Hub, and is left out.
    """
    if benchmark.prepare:
        return []
    absent = [path for path in annotation_files(benchmark) if not path.is_file()]
    problems = []
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        problems.append(f"annotation files are missing: {', '.join(map(str, absent[:3]))}{more}")
    if not Path(benchmark.image_folder).is_dir():
        problems.append(f"the image folder is missing: {benchmark.image_folder}")
    projector = (benchmark.training.get("environment") or {}).get("PRETRAIN_MM_MLP_ADAPTER")
    if projector and not Path(projector).is_file():
        problems.append(f"the projector of stage 1 is missing: {projector}")
    return problems


def base_stamps(benchmark: Benchmark) -> dict[str, str]:
    """Digests of the files that trainings start from, by variable; names on the Hub and absent paths are omitted.

    A digest of names, sizes, and the first and the last MiB of every file: a base that was trained anew differs there,
    and reading whole models before every plan would take minutes.
    """
    recipe = benchmark.training.get("environment") or {}
    paths = {name: Path(str(recipe[name])) for name in BASE_VARIABLES if recipe.get(name)}
    return {name: _stamp(path) for name, path in paths.items() if path.exists()}


def _stamp(place: Path) -> str:
    files = sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else [place]
    stamp = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        stamp.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as stream:
            stamp.update(stream.read(_STAMP_BYTES))
            stream.seek(max(0, size - _STAMP_BYTES))
            stamp.update(stream.read(_STAMP_BYTES))
    return stamp.hexdigest()


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
    return settings_key(benchmark.name, tasks, rates, folders, drawn_forms(benchmark))


def mix_of(benchmark: Benchmark, model: Model) -> dict[str, float]:
    """The tasks that a model is trained on, in the order of its training file, with the share of each."""
    return mixes(benchmark, drawn_forms(benchmark))[model.data][1]


def data_key(benchmark: Benchmark, model: Model, digests: Mapping[str, list]) -> list[tuple[str, float, str]]:
    """What a training learns from: tasks, shares, and the annotation files they come from, by content.

    Not the bytes of the training file: another task that uses the same ids changes the ids in a file.
    """
    files = {task.name: task.files["train"] for task in benchmark.tasks}
    mix = mix_of(benchmark, model)
    return [(name, rate, content_key(benchmark, files[name], digests)) for name, rate in mix.items()]


def training_settings(benchmark: Benchmark, model: Model, digests: Mapping[str, list]) -> str:
    """What a training depends on beside its weights: the recipe, and of the data only what its own mix holds.

    A base model that `prepare` makes is not there when a run is planned; its trainings notice another one themselves.
    """
    base = {} if benchmark.prepare else base_stamps(benchmark)
    recipe = result_settings(benchmark.training)
    method = model.method if model.sampling == PROPORTIONAL else f"{model.method}, sampling {model.sampling}"
    return settings_key(recipe, data_key(benchmark, model, digests), method, base)


def weighting_settings(benchmark: Benchmark, weighting: Ablation) -> str:
    """What a weights.json depends on beside the scores."""
    tasks = [(task.name, task.group, task.weight) for task in benchmark.tasks]
    settings = (weighting.form, weighting.temperature, weighting.alpha, benchmark.on_failed, benchmark.bootstrap)
    return settings_key(tasks, *settings)


def weighting_flags(benchmark: Benchmark, weighting: Ablation) -> str:
    """The flags of weighting_visatb.py that say how the scores are weighed."""
    temperature = AUTO if weighting.temperature is None else repr(weighting.temperature)
    alpha = " ".join(map(repr, weighting.alpha))
    return f"--form {weighting.form} --temperature {temperature} --alpha {alpha} --on-failed {benchmark.on_failed}"


def bootstrap_flags(benchmark: Benchmark, home: str) -> str:
    """The flags that give weights intervals, from the per-record scores of a seed."""
    if not benchmark.bootstrap:
        return ""
    return f"--bootstrap {benchmark.bootstrap} --per-record {shlex.quote(home + '/metrics')}"


def inference_settings(benchmark: Benchmark, model: Model, split: str, digests: Mapping[str, list]) -> str:
    """What the answers depend on beside the model."""
    tasks = [
        (task.name, task.files[split], content_key(benchmark, task.files[split], digests), task.max_new_tokens)
        for task in model.tasks(split)
    ]
    return settings_key(result_settings(benchmark.inference), tasks)


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
    return settings_key(tasks, settings, [_stamp(Path(name)) for name in read if name and Path(name).is_file()])


def metrics_of(task: Task, split: str) -> tuple[str, ...]:
    """The metrics of a task in a split: its own, and on the test set the further ones."""
    return (task.metric, *task.also) if split == "test" else (task.metric,)


def variant_of(model: str) -> str:
    """What the names of VisATB's and an ablation's weights differ in."""
    return "" if model == VISATB else f"_{model}"


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
