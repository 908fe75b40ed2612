"""How well cheaper measures of the weights agree with the measure `full`: the tables of `visatb study --measures`.

Agreement is between different seeds: a measure of one seed is compared with `full` of every other one, and the ceiling
is `full` compared with itself in the same way. Within a seed the measures share data and models, which would flatter
them.
"""

# S seeds; K values of a quantity

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from scripts_visatb.workflow.models import models_of, preparation_models
from scripts_visatb.workflow.places import Run
from visatb.files import read_json
from visatb.layout import lay_out
from visatb.weighting.settings import FULL_MEASURE, GRADIENT

# Quantity of a weights.json -> how it is called in tables.
QUANTITIES = {
    "contributions": "contributions off the diagonal",
    "contribution_out": "C_out",
    "contribution_in": "C_in",
    "difficulty": "difficulty",
    "weights": "weights",
}
LEAST = 3  # values that a correlation is computed over

Values = Mapping[str, Mapping[str, float]]  # quantity -> what it is of -> value


def values_of(content: Mapping[str, Any], measured: Sequence[str]) -> dict[str, dict[str, float]]:
    """The quantities of a weights.json by name, so that tasks which a measure left out are left out of the comparison.

    Args:
        content: the file.
        measured: the tasks that have a weight.
    """
    names = content["tasks"]
    found = {
        name: dict(zip(names, content[name], strict=True))
        for name in ("contribution_out", "contribution_in", "difficulty")
    }
    found["contributions"] = {
        f"{giver} -> {taker}": value
        for giver, row in zip(names, content["contributions"], strict=True)
        for taker, value in zip(names, row, strict=True)
        if giver != taker
    }
    return found | {"weights": {name: content["weights"][name] for name in measured}}


def pearson(a_K: np.ndarray, b_K: np.ndarray) -> float:
    """Pearson's correlation; NaN where one of both does not vary."""
    a_K, b_K = a_K - a_K.mean(), b_K - b_K.mean()
    scale = np.sqrt((a_K**2).sum() * (b_K**2).sum())
    return float((a_K * b_K).sum() / scale) if scale > 0 else float("nan")


def spearman(a_K: np.ndarray, b_K: np.ndarray) -> float:
    """Spearman's rank correlation; equal values share their mean rank."""
    return pearson(_ranks(a_K), _ranks(b_K))


def _ranks(value_K: np.ndarray) -> np.ndarray:
    _, place_K, count = np.unique(value_K, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[place_K]


def mean_difference(a_K: np.ndarray, b_K: np.ndarray) -> float:
    """The mean absolute difference."""
    return float(np.abs(a_K - b_K).mean())


STATISTICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "spearman": spearman,
    "pearson": pearson,
    "difference": mean_difference,
}


def agreement(mine: Mapping[int, Values], full: Mapping[int, Values]) -> dict[str, dict[str, float]]:
    """Quantity -> statistic -> its mean over all pairs of a measure's seed and another seed of `full`.

    Args:
        mine, full: seed -> quantities.
    """
    found = {}
    for quantity in QUANTITIES:
        pairs = [_common(mine[s][quantity], full[other][quantity]) for s, other in permutations(full, 2)]
        found[quantity] = {name: _mean(compute, pairs) for name, compute in STATISTICS.items()}
    return found


def _common(a: Mapping[str, float], b: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    names = [name for name in a if name in b]
    return np.array([a[name] for name in names]), np.array([b[name] for name in names])


def _mean(compute: Callable[[np.ndarray, np.ndarray], float], pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    values = [compute(*pair) for pair in pairs if len(pair[0]) >= LEAST]
    return float(np.mean(values)) if values else float("nan")


def seconds_of(current: Run) -> float:
    """The time of the steps that a run's weights are measured with: trainings, answers, scores, gradients."""
    steps = [current.done("gradients")] if current.benchmark.measure.kind == GRADIENT else []
    made = models_of(current.benchmark)
    for name in preparation_models(current.benchmark):
        steps += [current.done(f"train_{name}")] if made[name].data is not None else []
        steps += [current.done(f"{step}_{name}_val") for step in ("infer", "score")]
    return sum(read_json(step)["seconds"] for step in steps)


def study_of_measures(runs: Mapping[tuple[str, int], Run], samples: Mapping[str, float]) -> dict[str, Any]:
    """The content of measures.json, but for the command.

    Args:
        runs: (kind of measure, seed) -> a run whose weights are there; `full` among them.
        samples: kind -> samples that its trainings and gradients take.
    """
    kinds, seeds = (list(dict.fromkeys(key[n] for key in runs)) for n in (0, 1))
    measured = [task.name for task in next(iter(runs.values())).benchmark.measured]
    values = {
        kind: {seed: values_of(read_json(runs[kind, seed].weights()), measured) for seed in seeds} for kind in kinds
    }
    seconds = {kind: float(np.mean([seconds_of(runs[kind, seed]) for seed in seeds])) for kind in kinds}
    full = values[FULL_MEASURE]
    return {
        "benchmark": next(iter(runs.values())).benchmark.name,
        "seeds": seeds,
        "measures": {
            kind: {
                "settings": str(runs[kind, seeds[0]].benchmark.measure),
                "agreement": agreement(values[kind], full),
                "samples": samples[kind],
                "seconds": seconds[kind],
                "cost": {
                    "samples": samples[kind] / samples[FULL_MEASURE],
                    "seconds": seconds[kind] / seconds[FULL_MEASURE],
                },
                "values": {str(seed): values[kind][seed] for seed in seeds},
            }
            for kind in kinds
        },
    }


def tables_of_measures(study: Mapping[str, Any]) -> str:
    """measures.md."""
    measures, seeds = study["measures"], ", ".join(map(str, study["seeds"]))
    lines = [
        f"`{study['command']}`",
        "",
        f"Seeds {seeds}; {study['processor']}; {study['date']}. Correlations with `full` of the other seeds, means "
        "over all pairs of seeds; the row of `full` is the ceiling, `full` with itself.",
        "",
        lay_out(_correlations(measures), "markdown"),
        "",
        "Settings: " + "; ".join(found["settings"] for kind, found in measures.items() if kind != FULL_MEASURE) + ".",
        "",
        "As a share of the ceiling (Spearman, Pearson), and the cost as a share of that of `full`:",
        "",
        lay_out(_shares(measures), "markdown"),
        "",
        lay_out(_weights(study), "markdown"),
    ]
    return "\n".join(lines) + "\n"


def share_of_ceiling(measures: Mapping[str, Any], kind: str, quantity: str, statistic: str) -> float:
    """A correlation of a measure as a share of that of `full` with itself; NaN where the latter is not above 0."""
    ceiling = measures[FULL_MEASURE]["agreement"][quantity][statistic]
    return measures[kind]["agreement"][quantity][statistic] / ceiling if ceiling > 0 else float("nan")


def _correlations(measures: Mapping[str, Any]) -> list[list[str]]:
    rows = [["Spearman, Pearson", *QUANTITIES.values(), "mean difference of the weights"]]
    for kind, found in measures.items():
        part = found["agreement"]
        cells = [f"{part[name]['spearman']:.2f}, {part[name]['pearson']:.2f}" for name in QUANTITIES]
        rows.append([kind, *cells, f"{part['weights']['difference']:.3f}"])
    return rows


def _shares(measures: Mapping[str, Any]) -> list[list[str]]:
    rows = [["share of the ceiling", *QUANTITIES.values(), "samples", "time"]]
    for kind, found in measures.items():
        if kind == FULL_MEASURE:
            continue
        cells = [
            ", ".join(f"{share_of_ceiling(measures, kind, name, one):.2f}" for one in ("spearman", "pearson"))
            for name in QUANTITIES
        ]
        rows.append([kind, *cells, *(f"{found['cost'][unit]:.2f}" for unit in ("samples", "seconds"))])
    return rows


def _weights(study: Mapping[str, Any]) -> list[list[str]]:
    measures = study["measures"]
    names = list(next(iter(measures[FULL_MEASURE]["values"].values()))["weights"])
    rows = [["weights", *names]]
    for kind, found in measures.items():
        for seed, values in found["values"].items():
            rows.append([f"{kind}, seed {seed}", *(f"{values['weights'][name]:.3f}" for name in names)])
    return rows
