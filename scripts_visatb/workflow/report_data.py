"""Everything that the report shows, gathered from the files of a run into one JSON-serialisable mapping.

Nothing is computed here for which there is a command: contributions and weights come from weighting_visatb.py,
scores from eval/, dI% and dE% from eval/overall.py.
"""

import csv
import json
import math
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from eval.overall import compare, signs_of, tasks_at_zero
from eval.overall_spread import read_task_scores, spread_over_records
from eval.registry import find_metric
from scripts_visatb.data.mixes import balanced_units, read_manifest
from scripts_visatb.workflow.graph import result_settings
from scripts_visatb.workflow.matrix import read_score, refuse_incomparable
from scripts_visatb.workflow.models import (
    BASE,
    EW,
    FULL,
    MINI,
    SIMPLER_SCORES,
    SINGLE_SCORES,
    STL,
    VISATB,
    ablation_models,
    baseline_models,
    final_models,
    models_of,
    preparation_models,
    scored_by,
    tables_of,
)
from scripts_visatb.workflow.places import Run
from scripts_visatb.workflow.train import is_current
from visatb.benchmark import MEAN, Benchmark, Task
from visatb.errors import InputError
from visatb.files import parse_json, read_json, read_text
from visatb.weighting.report import measure_note
from visatb.weighting.tables import ScoreTable
from visatb.weighting.uncertainty import read_scores

PACKAGES = ("torch", "transformers", "accelerate", "numpy", "snakemake")
CURVE_POINTS = 200


def gather(benchmark: Benchmark, folder: Path, seeds: list[int]) -> dict[str, Any]:
    """The content of report.json.

    Args:
        benchmark: tasks and settings.
        folder: run folder.
        seeds: seeds whose preparation is complete; the first one has the final models.

    Raises:
        InputError: naming the file that is missing or broken.
    """
    first = Run(benchmark, folder, seeds[0])
    tasks = [
        {"name": task.name, "metric": _title(task), "weight": task.weight, "group": task.group}
        for task in benchmark.tasks
    ]
    subsets = read_manifest(first.subsets)
    shown, outdated = trained_models(first)
    test = test_scores(first, [EW, *shown, VISATB])
    methods = [EW, *(name for name in baseline_models(benchmark) if name in shown), VISATB]
    variants = [name for name in ablation_models(benchmark) if name in shown]
    return {
        "benchmark": benchmark.name,
        "tasks": tasks,
        "seeds": seeds,
        "matrix": score_table(first, tables_of(benchmark.form)[0]),
        "weighting": read_weighting(first.training_weights()),
        "test": test,
        "overall": overall(test),
        "overall_spread": overall_spread(first),
        "methods": comparison(test, methods),
        "ablations": comparison(test, [EW, VISATB, *variants]) if variants else None,
        "ablation_weights": {name: read_json(first.training_weights(name))["weights"] for name in (VISATB, *variants)},
        "amounts": amounts(first),
        "seed_order": seed_order(
            [Run(benchmark, folder, seed) for seed in seeds], folder / f"weights{benchmark.measure.suffix}.json"
        ),
        "curves": curves(first, [name for name in methods if name not in (EW, VISATB)]),
        "jobs": jobs(folder, seeds),
        "subsets": [
            {"name": key, "file": entry["file"], "records": entry["records"], "tasks": entry["tasks"]}
            for key, entry in subsets["files"].items()
        ],
        "evaluation_records": subsets["evaluation_records"],
        "warnings": subsets["warnings"] + weights_note(first) + omissions(first) + outdated,
        "settings": settings(benchmark),
        "versions": versions(),
    }


def weights_note(current: Run) -> list[str]:
    """Sentences on weights that were not measured as in the paper, or do not belong to the score matrix shown."""
    measured = measure_note(current.benchmark.measure.kind)
    if current.benchmark.weights_from != MEAN:
        return measured
    return measured + [
        f"weights are those of all seeds together (weights_from: mean); the score matrix is of seed {current.seed}"
    ]


def _title(task: Task) -> str | None:
    return find_metric(task.metric).title if task.metric else None


def read_weighting(file: Path) -> dict[str, Any]:
    """A weights.json. Fields that earlier versions lack are filled in, so that weights need not be computed again."""
    content = {"spread": None, "failed": []} | read_json(file)
    spread = content["spread"]
    if spread is None:
        return content
    low, high = (spread[end]["weight"] for end in ("low", "high"))
    error = {"weight": [(upper - lower) / 2 for lower, upper in zip(low, high, strict=True)]}
    spread = {"rule": "those are left out", "error": error} | spread
    if "weight_difference" not in spread["low"]:  # less precise than the interval of the difference
        spread["low"] |= {"weight_difference": [[lower - upper for upper in high] for lower in low]}
    return content | {"spread": spread}


def trained_models(current: Run) -> tuple[list[str], list[str]]:
    """The scored baselines and ablations, and a sentence for each that was trained with other settings."""
    models = models_of(current.benchmark)
    shown, outdated = [], []
    for name in (*baseline_models(current.benchmark), *ablation_models(current.benchmark)):
        if not current.done(f"score_{name}_test").is_file():
            continue
        weighting, weights = models[name].weighting, current.training_weights(name)
        fits = is_current(current, models[name])
        if fits and weighting is not None:
            found = read_json(weights)
            fits = (found["form"], tuple(found["alpha"])) == (weighting.form, weighting.alpha)
            fits = fits and weighting.temperature in (None, found["temperature"])
        if fits:
            shown.append(name)
        else:
            outdated.append(f"{name} was trained with other settings and is left out; its target trains it again")
    return shown, outdated


def score_table(current: Run, name: str) -> dict[str, Any]:
    """A table of validation scores: `columns` (tasks), `rows` (models), `values`."""
    table = list(csv.reader(read_text(current.table(name)).splitlines()))
    header, rows = table[0], table[1:]
    return {
        "columns": header[1:],
        "rows": [row[0] for row in rows],
        "values": [[float(cell) for cell in row[1:]] for row in rows],
    }


def amounts(current: Run) -> dict[str, list[list[float]]]:
    """Each task's validation score against the share of its data it was trained on alone, where such models exist.

    Returns:
        task -> [[share, score], ...]: 0 is the base, 1 all of it. Empty without single-task models on little data.
    """
    points: dict[str, list[list[float]]] = {task.name: [] for task in current.benchmark.measured}
    shares = {BASE: 0.0, MINI: current.benchmark.mini_rate, FULL: 1.0}
    if not current.table(SINGLE_SCORES).is_file():
        return {}
    for name in (SIMPLER_SCORES, SINGLE_SCORES):
        table = score_table(current, name) if current.table(name).is_file() else {"rows": [], "values": []}
        for row, values in zip(table["rows"], table["values"], strict=True):
            for task, value in zip(points, values, strict=True) if row in shares else ():
                points[task].append([shares[row], value])
    return points


def test_scores(current: Run, models: list[str]) -> list[dict[str, Any]]:
    """Per measured task: the test scores of STL and of models, and VisATB minus EW with its standard error.

    Further metrics stand under `also`: metric -> model -> score.
    """
    rows = []
    for task in current.benchmark.measured:
        own = {"STL": STL + task.name} | {model: model for model in models}
        columns = [task.name, *(f"{task.name}:{metric}" for metric in task.also)]
        refuse_incomparable(current, "test", [(model, column) for column in columns for model in own.values()])
        difference, error = paired_difference(current, task.name)
        also = {
            metric: {name: read_score(current, model, "test", f"{task.name}:{metric}") for name, model in own.items()}
            for metric in task.also
        }
        rows.append(
            {
                "task": task.name,
                "metric": _title(task),
                "records": read_json(current.metric_file(EW, "test", task.name))["n"],
                **{name: read_score(current, model, "test", task.name) for name, model in own.items()},
                "also": also,
                "difference": difference,
                "standard_error": error,
            }
        )
    return rows


def comparison(test: list[dict[str, Any]], models: list[str]) -> dict[str, Any] | None:
    """Scores, dI% and dE% (Eq. 9) of models against STL, a column per task and further metric (eval/overall.py).

    None where the single-task models score 0 on every task, so that percentages are undefined.
    """

    def columns(model: str) -> dict[str, float]:
        found = {}
        for row in test:
            found[row["task"]] = row[model]
            found |= {f"{row['task']}:{metric}": scores[model] for metric, scores in row.get("also", {}).items()}
        return found

    baseline = columns("STL")
    if len(tasks_at_zero(baseline)) == len(test):
        return None
    return compare(ScoreTable("test scores", tuple(baseline), {model: columns(model) for model in models}), baseline)


def overall_spread(current: Run) -> dict[str, Any]:
    """Intervals of dI% and dE% of EW and VisATB over resampled test records (`spread_over_records`).

    Without intervals, `models` is empty and `about` gives the reason.
    """
    benchmark = current.benchmark
    files = {}
    for task in benchmark.measured:
        for column in (task.name, *(f"{task.name}:{metric}" for metric in task.also)):
            owners = (STL + task.name, EW, VISATB)
            files[column] = [current.metric_file(model, "test", column) for model in owners]
    zeros = tasks_at_zero({column: float(read_json(paths[0])["score"]) for column, paths in files.items()})
    files = {column: paths for column, paths in files.items() if column.partition(":")[0] not in zeros}
    if not benchmark.bootstrap or not files:
        return {"about": "no intervals: bootstrap is 0, or single-task scores are 0", "models": {}}
    try:
        scores = read_task_scores(files)
        return spread_over_records(scores, signs_of(files), [EW, VISATB], benchmark.bootstrap)
    except (InputError, ValueError) as error:
        return {"about": f"no intervals: {error}", "models": {}}


def omissions(current: Run) -> list[str]:
    """A sentence for every task of which inference left out records (`on-bad-image: skip`)."""
    found = []
    first = scored_by(current.benchmark, tables_of(current.benchmark.form)[0])[0]
    for model, split in ((first, "val"), (EW, "test")):
        for task in current.benchmark.measured:
            count = read_json(current.metric_file(model, split, task.name)).get("omitted", 0)
            if count:
                found.append(f"{task.name}: {count} {split} records were left out by inference and are not scored")
    return found


def paired_difference(current: Run, task: str) -> tuple[float, float | None]:
    """VisATB minus EW over the same test records: the mean, and its standard error (None for a single record)."""
    mine, equal = (
        read_scores(current.metric_file(model, "test", task).with_suffix(".per_record.jsonl")) for model in (VISATB, EW)
    )
    if mine.keys() != equal.keys():
        raise InputError(
            f"{current.home}: the test answers of {task} differ in their records. Score both models again."
        )
    differences = [score - equal[key] for key, score in mine.items()]
    count = len(differences)
    mean = sum(differences) / count
    if count < 2:
        return mean, None
    return mean, math.sqrt(sum((d - mean) ** 2 for d in differences) / (count - 1) / count)


def overall(test: list[dict[str, Any]]) -> dict[str, Any]:
    """dI%, dE% and the improvement of every task in percent (Eq. 9), of EW and VisATB against STL.

    A task on which the single-task model scores 0 has none; both models are None where that is so on every task.
    """
    found = comparison(test, [EW, VISATB])
    if found is None:
        return {EW: None, VISATB: None}
    return {
        model: {"dI": entry["dI_percent"], "dE": entry["dE_percent"], "tasks": entry["improvement_percent"]}
        for model, entry in found["models"].items()
    }


def seed_order(runs: list[Run], together: Path) -> dict[str, Any]:
    """The weights of every seed, and whether the same task is heaviest and the same lightest in all.

    Args:
        runs: one per seed.
        together: the weights.json of all seeds, with the mean weights and their standard errors if it exists.
    """
    benchmark = runs[0].benchmark
    measured = [task.name for task in benchmark.measured]
    rows = []
    for current in runs:
        weights = {name: read_json(current.weights())["weights"][name] for name in measured}
        rows.append(
            {
                "seed": current.seed,
                "weights": weights,
                "highest": max(weights, key=weights.get),
                "lowest": min(weights, key=weights.get),
            }
        )
    mean = None
    if len(runs) > 1 and together.is_file():
        content = read_weighting(together)
        spread = content["spread"]
        error = dict(zip(content["tasks"], spread["error"]["weight"], strict=True))
        units = {task.name: unit for unit, tasks in balanced_units(benchmark).items() for task in tasks}
        mean = {name: [content["weights"][name], error.get(units[name], 0.0)] for name in measured}
    return {
        "rows": rows,
        "mean": mean,
        "highest_holds": len({row["highest"] for row in rows}) == 1,
        "lowest_holds": len({row["lowest"] for row in rows}) == 1,
    }


def curves(current: Run, more: Iterable[str] = ()) -> dict[str, dict[str, list[list[float]]]]:
    """Training loss by task: task -> model -> [[epoch, loss], ...], thinned by averaging to CURVE_POINTS at most.

    Models without a train_log.jsonl have no curve. `more` are drawn besides the models that every run compares.
    """
    from transformers_patch.plot_log import thinned  # imports torch, which the rest of the report does not need

    found: dict[str, dict[str, list[list[float]]]] = {task.name: {} for task in current.benchmark.tasks}
    for model in (*final_models(current.benchmark), *more):
        path = current.model(model) / "train_log.jsonl"
        if not path.is_file():
            continue
        lines = [parse_json(line, f"{path} line {n}") for n, line in enumerate(read_text(path).splitlines(), 1)]
        for task in current.benchmark.tasks:
            points = list(_points(lines, task.name))
            if points:
                found[task.name][model] = thinned(points, CURVE_POINTS)
    return found


def jobs(folder: Path, seeds: Iterable[int]) -> list[dict[str, Any]]:
    """The jobs in order of start: name, kind, started (seconds since the first), seconds, peak_mib."""
    folders = [folder / "done"] + [folder / f"seed{seed}" / "done" for seed in seeds]
    found = []
    for path in (path for place in folders for path in sorted(place.glob("[!.]*.json"))):
        if path.name == "report.json":
            continue
        record = read_json(path)
        kind = path.stem.split("_")[0]
        found.append({key: record[key] for key in ("name", "started", "seconds", "peak_mib")} | {"kind": kind})
    found.sort(key=lambda job: job["started"])
    start = found[0]["started"] if found else 0.0
    return [job | {"started": job["started"] - start} for job in found]


def settings(benchmark: Benchmark) -> dict[str, Any]:
    """The settings of the benchmark that shape the run, as text by name."""
    training = result_settings(benchmark.training)
    environment = training.pop("environment", None) or {}
    values = {
        "benchmark file": str(benchmark.path.name),
        "form": benchmark.form,
        "measure": str(benchmark.measure),
        "mini rate, large rate": f"{benchmark.mini_rate:g}, {benchmark.large_rate:g}",
        "temperature T": "auto" if benchmark.temperature is None else f"{benchmark.temperature:g}",
        "alpha (out, in, difficulty)": ", ".join(f"{a:g}" for a in benchmark.alpha),
        "trained models": str(len(preparation_models(benchmark)) + len(final_models(benchmark))),
    }
    values |= {f"training {name}": str(value) for name, value in training.items()}
    values |= {f"training {name}": str(value) for name, value in environment.items()}
    return values | {f"inference {name}": json.dumps(value) for name, value in benchmark.inference.items()}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; absent ones are left out."""
    found = {"Python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _points(lines: list[dict[str, Any]], task: str) -> Iterable[list[float]]:
    for line in lines:
        loss = line.get("tasks", {}).get(task, {}).get("loss")
        if loss is not None:
            yield [float(line["epoch"]), float(loss)]
