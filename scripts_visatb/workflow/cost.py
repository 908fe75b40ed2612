"""Prints what a run of a benchmark will do and cost, before anything is trained.

    visatb show
    visatb show academic --samples-per-second 40
    python -m scripts_visatb.workflow.cost show my_mix.yaml --from-log checkpoints/short-run

Sizes are counted in the annotation files where these exist, and otherwise taken from their names
(`VQAv2_train-83k.json`). Times are those of the trainings, without inference and scoring. --from-log takes the speed of
an earlier training with the same recipe on the same machine: a folder with its train_log.jsonl.
"""

import argparse
import math
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scripts_visatb.data.mixes import balanced_units, size_label
from scripts_visatb.data.subsets import compose
from scripts_visatb.smallest_gain import describe_gains, gains_of
from scripts_visatb.workflow.measure_costs import BYTES_PER_PARAMETER, describe_measures, model_bytes
from scripts_visatb.workflow.models import (
    EW,
    VISATB,
    ablation_models,
    baseline_models,
    final_models,
    forms_of,
    models_of,
    preparation_models,
)
from scripts_visatb.workflow.padding import describe_padding
from scripts_visatb.workflow.sources import missing
from visatb.benchmark import PRECISE, SIMPLER, Benchmark, load_benchmark
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import parse_json, read_text
from visatb.layout import lay_out
from visatb.record_stream import stream_records
from visatb.weighting.settings import FULL_MEASURE

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
# The paper's guidance (Appendix B and G).
LEAST_MINI, LEAST_LARGE, LEAST_STEPS = 1_000, 10_000, 100
TRAINING_BYTES = 14  # per parameter of a resumable checkpoint: bf16 weights, and Adam's moments and weights in float32
_SIZE_IN_NAME = re.compile(r"-(\d+)(k?)\.jsonl?$")


@dataclass(frozen=True)
class Cost:
    """The cost of one model.

    Attributes:
        name: of the model.
        data: key of its sub-dataset.
        samples, steps: of its whole training, all epochs.
        share: of the final run's samples.
    """

    name: str
    data: str
    samples: int
    steps: int
    share: float


@dataclass(frozen=True)
class Clock:
    """The speed of training.

    Attributes:
        speed: samples per second of one training, on all its GPUs; None where it is not known.
        gpus: of one training; 0 for the CPU.
    """

    speed: float | None
    gpus: int

    @property
    def heading(self) -> list[str]:
        """The unit of the hours, as a column of a table; none where the speed is not known."""
        return [] if self.speed is None else ["GPU-hours" if self.gpus else "hours"]

    def cells(self, found: Iterable[Cost]) -> list[str]:
        """The hours of trainings, as a cell of that column."""
        if self.speed is None:
            return []
        return [f"{sum(cost.samples for cost in found) / self.speed / 3600 * max(1, self.gpus):.2f}"]


def task_sizes(benchmark: Benchmark, split: str) -> tuple[dict[str, int], bool]:
    """Number of records of every task with a file of the split, and whether all were counted in the files.

    Raises:
        InputError: a file does not exist and has no size in its name.
    """
    owners: dict[str, list[str]] = {}
    for task in benchmark.tasks:
        if split in task.files:
            owners.setdefault(task.files[split], []).append(task.name)
    sizes, counted = {}, True
    for file, names in owners.items():
        path = Path(benchmark.data_folder) / file
        if path.is_file():
            sizes |= _counted(path, names)
            continue
        counted = False
        found = _SIZE_IN_NAME.search(file)
        if found is None or len(names) > 1:
            raise InputError(f"{path}: is not there, and its name does not hold the size of {names[0]}. Provide it.")
        sizes[names[0]] = int(found[1]) * (1000 if found[2] else 1)
    return {task.name: sizes[task.name] for task in benchmark.tasks if task.name in sizes}, counted


def costs(benchmark: Benchmark, sizes: dict[str, int], batch: int, epochs: float) -> list[Cost]:
    """The cost of every trained model of a benchmark, in the order of the run.

    Args:
        benchmark: tasks, rates and forms.
        sizes: training records by task.
        batch: samples of an optimizer step, on all GPUs.
        epochs: of every training.
    """
    contents = compose(benchmark, sizes, benchmark.seed, forms_of(benchmark))
    records = {key: sum(map(len, selection.values())) for key, (_, selection) in contents.items()}
    found = []
    for model in models_of(benchmark).values():
        if model.data is None:
            continue
        count = records[model.data]
        steps = steps_of(count, batch, epochs)
        found.append(Cost(model.name, model.data, round(count * epochs), steps, count / records["entire"]))
    return found


def steps_of(count: int, batch: int, epochs: float) -> int:
    """Number of optimizer steps of a training on that many records."""
    return math.ceil(math.ceil(count / batch) * epochs)


def formula(benchmark: Benchmark) -> tuple[str, float]:
    """The paper's estimate of the preparation as a share of the final run: formula and value."""
    units = len(balanced_units(benchmark))
    mini, large = benchmark.mini_rate, benchmark.large_rate
    if benchmark.form == SIMPLER:
        return "1 + R_mini", 1 + mini
    if benchmark.form == PRECISE:  # Appendix F: the other forms save the 2N single-task models
        return "R_large + N R_mini + 1 + R_mini", large + units * mini + 1 + mini
    return "R_large + N R_mini", large + units * mini


def guidance(
    benchmark: Benchmark, sizes: dict[str, int], found: Iterable[Cost], batch: int, epochs: float
) -> list[str]:
    """A sentence for each point of the paper's guidance that is not met; tasks of a group count together.

    Arguments as for `costs`, whose result is `found`.
    """
    by_data = {cost.data: cost for cost in found}
    units = {unit: sum(sizes[task.name] for task in tasks) for unit, tasks in balanced_units(benchmark).items()}
    rate = 1.0 if benchmark.form == SIMPLER else benchmark.large_rate
    most = benchmark.measure.samples_per_task or math.inf
    large = {
        unit: sum(min(round(rate * sizes[task.name]), most) for task in tasks)
        for unit, tasks in balanced_units(benchmark).items()
    }
    small = [unit for unit, size in units.items() if round(benchmark.mini_rate * size) < LEAST_MINI]
    few = [unit for unit, count in large.items() if count <= LEAST_LARGE]
    short = [unit for unit, count in large.items() if steps_of(count, batch, epochs) <= LEAST_STEPS]
    remedy = "Raise large_rate or add data." if rate < 1 else "Add data."
    unmet = []
    if small:
        unmet.append(f"mini subsets of fewer than {LEAST_MINI:,} samples: {', '.join(small)}. Raise mini_rate.")
    if "mini" in by_data and by_data["mini"].steps <= LEAST_STEPS:
        steps = by_data["mini"].steps
        unmet.append(f"all minis together train for {steps} steps, not more than {LEAST_STEPS}. Raise mini_rate.")
    if few:
        unmet.append(f"large subsets of no more than {LEAST_LARGE:,} samples: {', '.join(few)}. {remedy}")
    if short:
        unmet.append(f"large subsets that train for no more than {LEAST_STEPS} steps: {', '.join(short)}. {remedy}")
    return unmet


def samples_per_second(log: Path, batch: int) -> float:
    """The speed of a training, from its train_log.jsonl.

    Args:
        log: the file, or the folder it is in.
        batch: samples of an optimizer step.

    Raises:
        InputError: the log does not contain it.
    """
    file = log / "train_log.jsonl" if log.is_dir() else log
    lines = [parse_json(line, f"{file} line {n}") for n, line in enumerate(read_text(file).splitlines(), 1)]
    timed = [line for line in lines if isinstance(line, dict) and "elapsed_s" in line and "step" in line]
    # The steps of the first line include the start-up.
    steps = timed[-1]["step"] - timed[0]["step"] if timed else 0
    seconds = timed[-1]["elapsed_s"] - timed[0]["elapsed_s"] if timed else 0
    if steps <= 0 or seconds <= 0:
        raise InputError(f"{file}: needs two lines with step and elapsed_s, as trainings write them. Train longer.")
    return steps * batch / seconds


def describe(benchmark: Benchmark, gpus: int, speed: float | None, log: Path | None, runs: Path = Path("runs")) -> str:
    """All that `show` prints about a benchmark.

    Args:
        benchmark: tasks, rates, recipe.
        gpus: of one training; 0 for the CPU.
        speed: samples per second of one training, on all its GPUs; None for no times.
        log: of an earlier training, for its speed.
        runs: folder of the runs, whose scores show which differences the validation sets can distinguish.
    """
    recipe = benchmark.training.get("environment") or {}
    epochs = _number(recipe, "NUM_TRAIN_EPOCHS", 1)
    per_device = _number(recipe, "PER_DEVICE_TRAIN_BATCH_SIZE", 16)
    accumulation = _number(recipe, "GRADIENT_ACCUMULATION_STEPS", 1)
    batch = round(per_device * accumulation * max(1, gpus))
    sizes, counted = task_sizes(benchmark, "train")
    found = costs(benchmark, sizes, batch, epochs)
    clock = Clock(samples_per_second(log, batch) if log is not None else speed, gpus)
    units = len(balanced_units(benchmark))
    grouped = f" in {units} groups" if units < len(benchmark.measured) else ""
    source = "counted" if counted else "from the file names"
    warnings = guidance(benchmark, sizes, found, batch, epochs)
    lines = [
        f"{benchmark.name}: {len(benchmark.tasks)} tasks, {len(benchmark.measured)} measured{grouped}; "
        f"{benchmark.form} form, T = {benchmark.temperature or 'auto'}",
        f"{sum(sizes.values()):,} training samples ({source}), {epochs:g} epoch(s), "
        f"steps of {batch} samples on {f'{gpus} GPU(s)' if gpus else 'the CPU'}",
        "",
        _table(found, epochs, clock),
        "",
        *_summary(benchmark, found, clock),
        "",
        "preparation by each `measure` (* this file's; of the same speed, inference not counted):",
        describe_measures(benchmark, sizes, epochs, clock.speed),
        "",
        _disk(benchmark, found),
        describe_padding(benchmark, round(per_device), round(accumulation), max(1, gpus)),
        "",
        *_smallest_gains(benchmark, runs),
        *[""] * bool(warnings),
        *(f"guidance not met: {sentence}" for sentence in warnings),
    ]
    return "\n".join(lines)


def _table(found: list[Cost], epochs: float, clock: Clock) -> str:
    by_data: dict[str, list[Cost]] = {}
    for cost in found:
        by_data.setdefault(cost.data, []).append(cost)
    rows = [["sub-dataset", "samples", "steps", "of the final run", *clock.heading, "models"]]
    for data, of_data in by_data.items():
        first, more = of_data[0], len(of_data) - 2
        count = round(first.samples / epochs)
        names = ", ".join([cost.name for cost in of_data[:2]] + ([f"and {more} more"] if more > 0 else []))
        numbers = [f"{count:,}", f"{first.steps:,}", f"{first.share:.3f}", *clock.cells([first])]
        rows.append([f"{data} ({size_label(count)})", *numbers, names])
    return lay_out(rows)


def _summary(benchmark: Benchmark, found: list[Cost], clock: Clock) -> list[str]:
    """A line for each part of the run: its models, its cost against the final run, its time."""
    written, estimate = formula(benchmark)
    preparation = preparation_models(benchmark)
    named = {
        "preparation": preparation,
        "VisATB": [VISATB],
        "EW and STL": [name for name in final_models(benchmark) if name not in (VISATB, *preparation)],
        "baselines": baseline_models(benchmark),
        "ablations": ablation_models(benchmark),
    }
    needed = [cost for cost in found if cost.name not in {name for names in named.values() for name in names}]
    lines = []
    for part, names in named.items():
        costs_ = [cost for cost in found if cost.name in names]
        if part == "ablations":
            costs_ += needed  # models that only other forms need
        if not costs_:
            continue
        line = f"{part}: {len(costs_)} training(s), {sum(cost.share for cost in costs_):.2f} x the final run"
        if part == "preparation" and benchmark.measure.kind == FULL_MEASURE:
            line += f" (the paper's {written}: {estimate:.2f})"
        line += "".join(f", {cell} {name}" for cell, name in zip(clock.cells(costs_), clock.heading, strict=True))
        lines.append(line)
    return lines


def _smallest_gains(benchmark: Benchmark, runs: Path) -> list[str]:
    try:
        sizes, _ = task_sizes(benchmark, "val")
    except InputError as error:
        return [f"smallest gain that the validation sets distinguish from 0: unknown, {error}"]
    return describe_gains(gains_of(benchmark, sizes, runs))


def _disk(benchmark: Benchmark, found: list[Cost]) -> str:
    models = [cost.name for cost in found if cost.name in (*preparation_models(benchmark), *final_models(benchmark))]
    made = models_of(benchmark)
    sizes = {name: model_bytes(benchmark, made[name]) for name in models}
    if None in sizes.values():
        return f"disk: {len(models)} checkpoints of weights alone (the base model's name does not hold its size)"
    preparation = [size / 1e9 for name, size in sizes.items() if name in preparation_models(benchmark)]
    running = max(sizes.values()) / 1e9 * TRAINING_BYTES / BYTES_PER_PARAMETER
    text = (
        f"disk: {len(preparation)} preparation models of {preparation[0]:.0f} GB (weights alone) = "
        f"{sum(preparation):.0f} GB, {sum(sizes.values()) / 1e9:.0f} GB with EW, STL and VisATB; {running:.0f} GB more "
        "while one trains"
    )
    if benchmark.training.get("keep_models", True):
        return text + ". training.keep_models: false deletes them once they are scored"
    kept = len([name for name in models if name in (EW, VISATB)])
    return text + f"; of them {kept} stay, the others are deleted once they are scored"


def _number(recipe: dict, name: str, default: float) -> float:
    value = recipe.get(name, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < math.inf:
        raise InputError(f"training.environment.{name} must be a number > 0, got {value!r}. Fix the benchmark file.")
    return number


def _counted(path: Path, names: list[str]) -> dict[str, int]:
    counts = dict.fromkeys(names, 0)
    for record in stream_records(path):
        task = record.get("task")
        if task not in counts:
            raise InputError(f"{path}: has a record of task {task!r}, expected {', '.join(names)}. Fix the file.")
        counts[task] += 1
    return counts


def find_benchmark(name: str) -> Path:
    """The file of a benchmark named as in `list`, or the path itself.

    Raises:
        InputError: there is none.
    """
    for path in (Path(name), FOLDER / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(path.stem for path in sorted(FOLDER.glob("*.yaml")))
    raise InputError(f"{name}: no such file, and no benchmark of that name ({known}). Give a name or a path.")


def main() -> None:
    """Command line."""
    options = _parser().parse_args()
    if options.command == "list" or options.benchmark is None:
        files = [load_benchmark(path) for path in sorted(FOLDER.glob("*.yaml"))]
        rows = [["name", "tasks", "form", "file"]]
        rows += [[found.name, str(len(found.tasks)), found.form, os.path.relpath(found.path)] for found in files]
        print(lay_out(rows))
        return
    if options.samples_per_second is not None and not 0 < options.samples_per_second < math.inf:
        raise InputError(f"--samples-per-second must be a number > 0, got {options.samples_per_second}. Correct it.")
    if options.gpus is not None and options.gpus < 0:
        raise InputError(f"--gpus must be at least 0, got {options.gpus}. Raise it.")
    benchmark = load_benchmark(find_benchmark(options.benchmark))
    gpus = benchmark.training.get("gpus", 0) if options.gpus is None else options.gpus
    print(describe(benchmark, gpus, options.samples_per_second, options.from_log, options.runs))
    for sentence in missing(benchmark):
        print(f"note: {sentence}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    description, _, example = __doc__.partition("\n\n")
    parser = ArgumentParser(description=description, epilog=example)
    commands = parser.add_subparsers(dest="command", required=True, help="what to do")
    commands.add_parser("list", help="list the shipped benchmarks")
    show = commands.add_parser("show", description=description, help="what a run will do and cost")
    show.add_argument("benchmark", nargs="?", help="name as in list, or path of a benchmark file; lists them if absent")
    show.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs, for existing scores")
    show.add_argument("--gpus", type=int, help="GPUs of one training; training.gpus of the file by default")
    speed = show.add_mutually_exclusive_group()
    speed.add_argument("--samples-per-second", type=float, help="of one training, on all its GPUs")
    speed.add_argument("--from-log", type=Path, help="folder of an earlier training, for the speed in its log")
    return parser


if __name__ == "__main__":
    run(main)
