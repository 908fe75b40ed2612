"""What each `measure` of a benchmark would cost, side by side: part of what `visatb show` prints."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from scripts_visatb.data.subsets import compose
from scripts_visatb.workflow.models import Model, forms_of, models_of, preparation_models
from visatb.benchmark import STANDARD, Benchmark
from visatb.files import read_json
from visatb.layout import lay_out
from visatb.measure_section import LARGE_ENOUGH, Measure
from visatb.weighting.settings import GRADIENT, LORA, PROXY, SHORT

BYTES_PER_PARAMETER = 2  # of a checkpoint, in bf16
ADAPTER_RANK = 128  # of finetune_lora.sh
GRADIENT_SAMPLES = 512  # of visatb gradients
_PARAMETERS_IN_NAME = re.compile(r"(\d+(?:\.\d+)?)b(?![a-z])", re.IGNORECASE)
# Hidden size, MLP size and layers of LLaVA-1.5's language models, by billions of parameters.
_SHAPES = {7.0: (4096, 11008, 32), 13.0: (5120, 13824, 40)}


@dataclass(frozen=True)
class MeasureCost:
    """The cost of the preparation by one measure.

    Attributes:
        measure: how the models are made.
        trainings: number of trained models.
        samples: number of samples that they train on, in all epochs; a gradient counts as one sample of a training.
        share: of the final run's samples, times the size of a proxy against the final model where both are known.
        disk: bytes of the models, None where the base model's size is not known.
    """

    measure: Measure
    trainings: int
    samples: float
    share: float
    disk: float | None


def parameters_of(base: object) -> float | None:
    """Number of parameters according to a model's name (`vicuna-7b-v1.5`); None if it does not contain it."""
    found = _PARAMETERS_IN_NAME.search(Path(str(base or "")).name)
    return float(found[1]) * 1e9 if found else None


def model_bytes(benchmark: Benchmark, model: Model) -> float | None:
    """The size of a trained model on disk, weights alone; None where the base model's name does not hold its own."""
    environment = model.measure.training(benchmark.training).get("environment") or {}
    parameters = parameters_of(environment.get("BASE_MODEL_PATH"))
    if model.measure.kind == LORA:
        shape = _shape(environment.get("BASE_MODEL_PATH"), parameters)
        return None if shape is None else adapter_bytes(int(environment.get("LORA_R", ADAPTER_RANK)), *shape)
    return None if parameters is None else parameters * BYTES_PER_PARAMETER


def adapter_bytes(rank: int, hidden: int, mlp: int, layers: int) -> float:
    """The size of LoRA adapters of all projections of a LLaMA: [rank, in] and [out, rank] for each."""
    of_layer = 4 * (hidden + hidden) + 3 * (hidden + mlp)
    return BYTES_PER_PARAMETER * rank * of_layer * layers


def _shape(base: object, parameters: float | None) -> tuple[int, int, int] | None:
    config = Path(str(base or "")) / "config.json"
    if not config.is_file():
        return _SHAPES.get((parameters or 0) / 1e9)
    content = read_json(config)
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers")
    return tuple(content[key] for key in keys) if all(key in content for key in keys) else None


def measures_of(benchmark: Benchmark) -> list[Measure]:
    """The measures to choose from: the benchmark's own and the others, except proxy, with their defaults."""
    others = [Measure(), Measure(SHORT, LARGE_ENOUGH), Measure(LORA)]
    others += [Measure(GRADIENT)] if benchmark.form == STANDARD else []
    mine = benchmark.measure
    found = [mine if other.kind == mine.kind else other for other in others]
    return found if mine in found else [*found, mine]


def cost_of(benchmark: Benchmark, measure: Measure, sizes: Mapping[str, int], epochs: float) -> MeasureCost:
    """The cost of the preparation of a benchmark's own form by a measure.

    Args:
        benchmark: tasks, rates, form, recipe.
        measure: in place of the benchmark's own.
        sizes: training records by task.
        epochs: of every training.
    """
    other = replace(benchmark, measure=measure, ablations=())
    contents = compose(other, dict(sizes), benchmark.seed, forms_of(other))
    records = {key: sum(map(len, selection.values())) for key, (_, selection) in contents.items()}
    made = models_of(other)
    trained = [made[name] for name in preparation_models(other) if made[name].data is not None]
    samples = epochs * sum(records[model.data] for model in trained)
    if measure.kind == GRADIENT:  # a forward and a backward pass each, as in training
        most = int(measure.flags.get("samples_per_task", GRADIENT_SAMPLES))
        samples += 2 * sum(min(most, sizes[task.name]) for task in benchmark.measured)
    sizes_on_disk = [model_bytes(other, model) for model in trained]
    disk = None if None in sizes_on_disk else sum(sizes_on_disk)
    share = _relative_size(benchmark, measure) * samples / (epochs * records["entire"])
    return MeasureCost(measure, len(trained), samples, share, disk)


def _relative_size(benchmark: Benchmark, measure: Measure) -> float:
    """A proxy's size divided by the final model's, where both names contain it: the cost of a sample."""
    if measure.kind != PROXY:
        return 1.0
    key = "BASE_MODEL_PATH"
    own = parameters_of((benchmark.training.get("environment") or {}).get(key))
    proxy = parameters_of(measure.environment.get(key))
    return proxy / own if own and proxy else 1.0


def describe_measures(benchmark: Benchmark, sizes: Mapping[str, int], epochs: float, speed: float | None) -> str:
    """The table of `visatb show`: the cost of the preparation by each measure, the benchmark's own marked.

    Args:
        benchmark, sizes, epochs: as for `cost_of`.
        speed: samples per second of one training; None for no hours.
    """
    heading = ["measure", "trainings", "samples", "of the final run", *([] if speed is None else ["hours"]), "disk"]
    rows = [heading]
    for measure in measures_of(benchmark):
        cost = cost_of(benchmark, measure, sizes, epochs)
        mark = " *" if measure == benchmark.measure else ""
        cells = [f"{measure}{mark}", str(cost.trainings), f"{cost.samples:,.0f}", f"{cost.share:.2f}"]
        cells += [] if speed is None else [f"{cost.samples / speed / 3600:.2f}"]
        rows.append([*cells, "unknown" if cost.disk is None else f"{cost.disk / 1e9:.1f} GB"])
    return lay_out(rows)
