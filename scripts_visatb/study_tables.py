"""What the runs of a study say together (scripts_visatb/study.py): differences with their errors, weights, agreement.

A difference is over the same test records in the same run. Its standard error has two parts that are added up as
variances: over the seeds, and over the test records, which are the same for every seed and whose part more seeds do not
reduce. Runs that share a seed are averaged first: kernels are no independent repetitions.
"""

# N tasks, M models, S seeds, C kernels, R test records of a task

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.registry import find_metric
from scripts_visatb.workflow.models import STL
from scripts_visatb.workflow.places import Run
from visatb.files import read_json
from visatb.layout import lay_out
from visatb.weighting.uncertainty import PER_RECORD, read_same_records

CLEAR = 2.0  # standard errors


def standard_error(value_SR: np.ndarray) -> float:
    """The standard error of the mean of paired differences, over seeds and over records.

    Args:
        value_SR: float64 [S, R], the difference in every record and seed; R = 1: records are not looked at.

    Returns:
        NaN for a single seed.
    """
    seeds, records = value_SR.shape
    if seeds < 2:
        return float("nan")
    over_seeds = value_SR.mean(axis=1).var(ddof=1) / seeds
    over_records = value_SR.mean(axis=0).var(ddof=1) / records if records > 1 else 0.0
    return float(np.sqrt(over_seeds + over_records))


def read_records(current: Run, models: Sequence[str]) -> list[np.ndarray]:
    """The test scores of a run, of each task float64 [M, R], higher is better; `STL` is the task's own model."""
    found = []
    for task in current.benchmark.measured:
        names = [STL + task.name if model == STL else model for model in models]
        files = [current.metric_file(name, "test", task.name).with_suffix(PER_RECORD) for name in names]
        sign = -1 if find_metric(task.metric).lower_is_better else 1
        found.append(sign * read_same_records(files))
    return found


def study_of(runs: Mapping[tuple[str, int], Run], model: str, rivals: Sequence[str]) -> dict[str, Any]:
    """The content of study.json, but for the command.

    Args:
        runs: (kernel, seed) -> a finished run, all of one benchmark.
        model: whose weights and whose gain the study is about.
        rivals: what it is compared with.
    """
    kernels, seeds = (list(dict.fromkeys(key[n] for key in runs)) for n in (0, 1))
    first = next(iter(runs.values()))
    tasks = [task.name for task in first.benchmark.measured]
    models = [STL, model, *rivals]
    record_scores = {key: read_records(current, models) for key, current in runs.items()}
    # Of each task [C, S, M, R].
    scores = [
        np.stack([np.stack([record_scores[kernel, seed][n] for seed in seeds]) for kernel in kernels])
        for n in range(len(tasks))
    ]
    return {
        "benchmark": first.benchmark.name,
        "tasks": tasks,
        "kernels": kernels,
        "seeds": seeds,
        "scores": {
            task: {name: scores[n][:, :, m].mean(axis=-1).tolist() for m, name in enumerate(models)}
            for n, task in enumerate(tasks)
        },
        "overall": {name: overall(scores, m) for m, name in enumerate(models) if m},
        "gains": {name: gain(tasks, scores, models.index(name)) for name in rivals},
        "weights": weights_of(runs, tasks),
        "kernel_differences": kernel_differences(tasks, scores, models, kernels),
    }


def changes(scores: Sequence[np.ndarray], m: int, other: int) -> list[np.ndarray]:
    """What a model's dI% has above another's, by task and record: 100 (V_m - V_other) / V_STL / N, of each task [S, R].

    Its sum over the tasks of the means over records is the difference of dI%, in each seed the mean over kernels.
    """
    parts = []
    for score_CSMR in scores:
        base_CS1 = score_CSMR[:, :, 0].mean(axis=-1, keepdims=True)
        parts.append((100 / len(scores) * (score_CSMR[:, :, m] - score_CSMR[:, :, other]) / abs(base_CS1)).mean(axis=0))
    return parts


def overall(scores: Sequence[np.ndarray], m: int) -> dict[str, Any]:
    """dI% of a model against the single-task models: mean, standard error, and of every kernel and seed."""
    value_CS = sum(
        100 / len(scores) * (score[:, :, m] - score[:, :, 0]).mean(axis=-1) / abs(score[:, :, 0].mean(axis=-1))
        for score in scores
    )
    return {"mean": float(value_CS.mean()), "error": combined(changes(scores, m, 0)), "runs": value_CS.tolist()}


def combined(parts: Sequence[np.ndarray]) -> float:
    """The standard error of a sum over tasks of mean differences: seeds together, records of each task apart."""
    whole_S = sum(part_SR.mean(axis=1) for part_SR in parts)
    if len(whole_S) < 2:
        return float("nan")
    over_records = sum(part_SR.mean(axis=0).var(ddof=1) / part_SR.shape[1] for part_SR in parts)
    return float(np.sqrt(whole_S.var(ddof=1) / len(whole_S) + over_records))


def gain(tasks: Sequence[str], scores: Sequence[np.ndarray], rival: int) -> dict[str, Any]:
    """What model 1 has above a rival: dI%, and the score of every task, each with its standard error."""
    parts = changes(scores, 1, rival)
    by_task = {}
    for name, score_CSMR in zip(tasks, scores, strict=True):
        difference_SR = (score_CSMR[:, :, 1] - score_CSMR[:, :, rival]).mean(axis=0)
        by_task[name] = {"mean": float(difference_SR.mean()), "error": standard_error(difference_SR)}
    whole_S = sum(part_SR.mean(axis=1) for part_SR in parts)
    return {"dI": float(whole_S.mean()), "error": combined(parts), "seeds": whole_S.tolist(), "tasks": by_task}


def weights_of(runs: Mapping[tuple[str, int], Run], tasks: Sequence[str]) -> dict[str, Any]:
    """The weights of every run, how far they scatter, and how often the same task is highest and lowest."""
    rows = []
    for (kernel, seed), current in runs.items():
        found = read_json(current.weights())["weights"]
        weights = {name: found[name] for name in tasks}
        ends = {"highest": max(weights, key=weights.get), "lowest": min(weights, key=weights.get)}
        rows.append({"kernel": kernel, "seed": seed, "weights": weights, **ends})
    weight_XN = np.array([[row["weights"][name] for name in tasks] for row in rows])
    return {
        "runs": rows,
        "mean": dict(zip(tasks, weight_XN.mean(axis=0).tolist(), strict=True)),
        "deviation": dict(zip(tasks, weight_XN.std(axis=0, ddof=1).tolist(), strict=True)),
        "between_tasks": float(weight_XN.mean(axis=0).std(ddof=1)),
        **{end: Counter(row[end] for row in rows).most_common(1)[0] for end in ("highest", "lowest")},
    }


def kernel_differences(
    tasks: Sequence[str], scores: Sequence[np.ndarray], models: Sequence[str], kernels: Sequence[str]
) -> list[dict[str, Any]]:
    """By how much the scores differ between each further kernel and the first, of every model on every task."""
    found = []
    for c, kernel in enumerate(kernels[1:], 1):
        for name, score_CSMR in zip(tasks, scores, strict=True):
            for m, model in enumerate(models):
                difference_SR = score_CSMR[c, :, m] - score_CSMR[0, :, m]
                error = standard_error(difference_SR)
                entry = {"task": name, "model": model, "kernels": [kernels[0], kernel]}
                found.append(entry | {"mean": float(difference_SR.mean()), "error": error})
    return found


def is_clear(mean: float, error: float) -> bool:
    """Whether a difference exceeds two of its standard errors."""
    return abs(mean) > CLEAR * error


def tables_of_study(study: Mapping[str, Any]) -> str:
    """study.md."""
    seeds, kernels = study["seeds"], study["kernels"]
    weights = study["weights"]
    total = len(weights["runs"])
    lines = [
        f"`{study['command']}`",
        "",
        f"Seeds {', '.join(map(str, seeds))}; kernels {', '.join(kernels)}; {study['processor']}; {study['date']}. "
        "± is one standard error, over seeds and test records.",
        "",
        lay_out(_score_rows(study), "markdown"),
        "",
        *[_gain_sentence(rival, found) for rival, found in study["gains"].items()],
        "",
        lay_out(_weight_rows(study), "markdown"),
        "",
        *[f"The {end} weight is that of {weights[end][0]} in {weights[end][1]} of {total} runs." for end in ENDS],
        f"Between tasks the mean weights have a standard deviation of {weights['between_tasks']:.3f}; over the runs "
        f"those of a task have one of {max(weights['deviation'].values()):.3f} at most.",
    ]
    if differences := study["kernel_differences"]:
        clear = [entry for entry in differences if is_clear(entry["mean"], entry["error"])]
        lines += ["", lay_out(_kernel_rows(study), "markdown"), ""]
        named = ", ".join(f"{entry['task']} of {entry['model'].rstrip('-')}" for entry in clear)
        lines.append(
            f"{len(clear)} of {len(differences)} scores differ between kernels by more than {CLEAR:g} standard errors"
            + (f": {named}." if clear else ".")
        )
    return "\n".join(lines) + "\n"


ENDS = ("highest", "lowest")


def _signed(mean: float, error: float, digits: int) -> str:
    return f"{mean:+.{digits}f} ± {error:.{digits}f}"


def _gain_sentence(rival: str, found: Mapping[str, Any]) -> str:
    verdict = "more" if is_clear(found["dI"], found["error"]) else "not more"
    return (
        f"dI% of VisATB less that of {rival}: {_signed(found['dI'], found['error'], 2)}, "
        f"which is {verdict} than {CLEAR:g} standard errors."
    )


def _score_rows(study: Mapping[str, Any]) -> list[list[str]]:
    names = list(next(iter(study["scores"].values())))
    gains = study["gains"]
    rows = [["task", *(name.rstrip("-") for name in names), *(f"VisATB - {rival}" for rival in gains)]]
    for task, scores in study["scores"].items():
        means = [f"{np.mean(scores[name]):.3f}" for name in names]
        parts = [found["tasks"][task] for found in gains.values()]
        rows.append([task, *means, *(_signed(part["mean"], part["error"], 3) for part in parts)])
    overall = study["overall"]
    cells = [_signed(overall[name]["mean"], overall[name]["error"], 2) if name in overall else "" for name in names]
    rows.append(["dI%", *cells, *(_signed(found["dI"], found["error"], 2) for found in gains.values())])
    return rows


def _weight_rows(study: Mapping[str, Any]) -> list[list[str]]:
    tasks, weights = study["tasks"], study["weights"]
    rows = [["weights", *tasks]]
    for run in weights["runs"]:
        rows.append([f"seed {run['seed']}, {run['kernel']}", *(f"{run['weights'][name]:.3f}" for name in tasks)])
    rows.append(["mean", *(f"{weights['mean'][name]:.3f}" for name in tasks)])
    rows.append(["standard deviation", *(f"{weights['deviation'][name]:.3f}" for name in tasks)])
    return rows


def _kernel_rows(study: Mapping[str, Any]) -> list[list[str]]:
    names = list(next(iter(study["scores"].values())))
    rows = [["between kernels", *(name.rstrip("-") for name in names)]]
    for kernel in study["kernels"][1:]:
        for task in study["tasks"]:
            found = {
                entry["model"]: _signed(entry["mean"], entry["error"], 3)
                for entry in study["kernel_differences"]
                if entry["task"] == task and entry["kernels"][1] == kernel
            }
            rows.append([f"{task}, {kernel} - {study['kernels'][0]}", *(found[name] for name in names)])
    return rows
