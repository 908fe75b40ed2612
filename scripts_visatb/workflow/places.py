"""Paths of everything that a run makes, for all steps and the Snakefile.

runs/<benchmark>/seed<s>/subsets/       training files of the sub-datasets and their manifest
                         models/        one checkpoint folder per model (their names: models.py)
                         served/        copies of models while a server has them
                         answers/       answer files, one folder per model and split
                         metrics/       metric files, one folder per model and split
                         replies/       replies of the judge, one file per model, split and task
                         done/          one record per finished job: when, how long, how much memory
                         scores.csv     validation scores of the N+1 preparation models
                         scores_simpler.csv  of the base and the single-task models (simpler form)
                         single_scores.csv   of single-task models on little and on all data (simpler, precise)
                         gradients.json contributions from gradients (`measure: gradient`)
                         weights.json   contributions, difficulties, weights; weights_<ablation>.json
                         <name>_<measure>.csv, weights_<measure>.json  of another measure than `full`
runs/<benchmark>/logs/                  the output of every job
runs/<benchmark>/weights.json           of several seeds together: mean and standard error; weights_<ablation>.json
runs/<benchmark>/report.html            and report.json, *.png, tables/
"""

from dataclasses import dataclass
from pathlib import Path

from scripts_visatb.workflow.models import VISATB, Model
from visatb.benchmark import MEAN, Benchmark, Task
from visatb.errors import InputError
from visatb.files import read_json

ADAPTER_CONFIG = "adapter_config.json"  # in the folder of a model that holds LoRA adapters alone


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
        """One of the tables of validation scores (models.TABLES), of the benchmark's measure."""
        return self.home / f"{name}{self.benchmark.measure.suffix}.csv"

    def weights(self, model: str = VISATB) -> Path:
        """Result of weighting_visatb.py for VisATB or an ablation, of the benchmark's measure."""
        return self.home / f"weights{variant_of(self.benchmark, model)}.json"

    def training_weights(self, model: str = VISATB) -> Path:
        """The weights that a model is trained with: this seed's, or those of all seeds (`weights_from`)."""
        own = self.weights(model)
        return self.folder / own.name if self.benchmark.weights_from == MEAN else own

    def model(self, name: str) -> Path:
        """Checkpoint folder of a model."""
        return self.home / "models" / name

    @property
    def gradients(self) -> Path:
        """Contributions from gradients (`measure: gradient`)."""
        return self.home / "gradients.json"

    def answers(self, model: str, split: str) -> Path:
        """Folder of a model's answers to the questions of a split."""
        return self.home / "answers" / f"{model}_{split}"

    def answer_file(self, model: str, split: str, task: Task) -> Path:
        """Where inference_visatb.py writes the answers of a model to one task's questions."""
        stem = Path(task.files[split]).stem.replace("_", "-")
        return self.answers(model, split) / f"{stem}_{model.replace('_', '-')}.json"

    def metric_file(self, model: str, split: str, task: str) -> Path:
        """The metric file of a model on a task; `<task>:<metric>` for a further metric."""
        return self.home / "metrics" / f"{model}_{split}" / f"{task}.json"

    def reply_file(self, model: str, split: str, task: str) -> Path:
        """The judge's replies on a model's answers."""
        return self.home / "replies" / f"{model}_{split}" / f"{task}.jsonl"

    def question_file(self, split: str, task: Task) -> Path:
        """The benchmark's annotation file of a split."""
        return Path(self.benchmark.data_folder) / task.files[split]

    def done(self, job: str) -> Path:
        """The record that exists once a job is finished. It lies outside the model folders: Snakemake deletes a job's
        outputs before repeating it, and a checkpoint to resume from must survive that."""
        return self.home / "done" / f"{job}.json"


def model_place(current: Run, model: Model) -> tuple[str, str | None]:
    """A model's weights as inference takes them: its path, and its base model or None.

    The base of a run is the model that its trainings start from: a whole checkpoint, or a language model with the
    projector of stage 1, whose folder inference takes like an adapter.

    Raises:
        InputError: the benchmark names no base model, but one is needed.
    """
    recipe = model.measure.training(current.benchmark.training).get("environment") or {}
    base = recipe.get("BASE_MODEL_PATH")
    where = f"{current.benchmark.path}: training.environment.BASE_MODEL_PATH"
    if model.data is None:
        projector = recipe.get("PRETRAIN_MM_MLP_ADAPTER")
        if not base:
            raise InputError(f"{where} must name the base model, which this form of the weights scores. Set it.")
        return (str(Path(projector).parent), str(base)) if projector else (str(base), None)
    folder = current.model(model.name)
    file = folder / ADAPTER_CONFIG
    if not file.is_file():
        return str(folder), None
    base = base or read_json(file).get("base_model_name_or_path")
    if not base:
        raise InputError(f"{file}: no base model. Set {where} in the benchmark file.")
    return str(folder), str(base)


def variant_of(benchmark: Benchmark, model: str) -> str:
    """The part of a weights file's name that differs: the measure and the ablation."""
    return benchmark.measure.suffix + ("" if model == VISATB else f"_{model}")
