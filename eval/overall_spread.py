"""How sure dI% and dE% (Eq. 9) are: over resampled test records, or over several runs of a model."""

# T tasks, K metrics of a task, M models, R records of a task, B resamples

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from visatb.errors import InputError
from visatb.files import read_json
from visatb.weighting.uncertainty import PER_RECORD, SAME_SCORE, read_same_records, t_quantile

Interval = tuple[float, float]


def resampled_improvements(
    score_KMR: Sequence[np.ndarray], sign_K: Sequence[np.ndarray], resamples: int, seed: int = 0
) -> np.ndarray:
    """The relative improvement of every model on every task, over test records drawn with replacement.

    A draw is the same for all models and metrics of a task, which scored the same records; tasks are drawn apart.

    Args:
        score_KMR: of each task float64 [K, M + 1, R], the scores of its records, the baseline's first.
        sign_K: of each task float64 [K]; -1 where a lower score is better.
        resamples: B.
        seed: of the draws.

    Returns:
        float64 [T, M, B], fractions. Draws in which a baseline scores 0 are left out.

    Raises:
        ValueError: if those are more than half.
    """
    draw = np.random.default_rng(seed)
    found = []
    for scores, sign in zip(score_KMR, sign_K, strict=True):
        records = scores.shape[-1]
        count_RB = draw.multinomial(records, np.full(records, 1 / records), size=resamples).T
        mean_KMB = scores @ count_RB / records
        with np.errstate(all="ignore"):
            change_KMB = sign[:, None, None] * (mean_KMB[:, 1:] / mean_KMB[:, :1] - 1)
        found.append(change_KMB.mean(axis=0))
    change_TMB = np.stack(found)
    usable_B = np.isfinite(change_TMB).all(axis=(0, 1))
    if 2 * usable_B.sum() <= resamples:
        raise ValueError("the baseline scores 0 in most resamples of the records")
    return change_TMB[..., usable_B]


def overall_of(change_TX: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """dI% and dE% of improvements: [T, ...] -> [...] each."""
    return 100 * change_TX.mean(axis=0), 100 * np.maximum(0.0, -change_TX).mean(axis=0)


def interval(estimate: float, sample_B: np.ndarray, confidence: float = 0.95) -> tuple[Interval, float]:
    """A normal interval and the standard error of an estimate, from its resampled values.

    The resampled mean's distance from the estimate is taken off as bias: dE% counts losses alone, so that chance raises
    it, and resampling raises it once more. In simulated worlds (tests/unit/eval/test_overall_spread.py) the 95%
    interval holds the true dI% in 95% and the true dE% in 93 to 100%; in 88% where one task of eight lost and no other
    changed.
    """
    error = float(sample_B.std(ddof=1))
    centre = 2 * estimate - float(sample_B.mean())
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    return (centre - reach, centre + reach), error


def spread_over_records(
    score_KMR: Sequence[np.ndarray],
    sign_K: Sequence[np.ndarray],
    models: Sequence[str],
    resamples: int,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Intervals of dI% and dE% of models, and of their distance from the first model.

    Args:
        score_KMR, sign_K, resamples, seed: see `resampled_improvements`.
        models: names of the M models.
        confidence: of the intervals.

    Returns:
        {"about": text, "models": {model: {"dI": [low, high], "dI_error": number, "dE": ..., "dE_error": ...,
        "gap": [low, high]}}}, in percent; "gap" is dI% less that of the first model, which has none.
    """
    whole = [scores.mean(axis=-1) for scores in score_KMR]
    improvement_TM = np.stack(
        [
            (sign[:, None] * (mean[:, 1:] / mean[:, :1] - 1)).mean(axis=0)
            for mean, sign in zip(whole, sign_K, strict=True)
        ]
    )
    resampled_TMB = resampled_improvements(score_KMR, sign_K, resamples, seed)
    dI_M, dE_M = overall_of(improvement_TM)
    dI_MB, dE_MB = overall_of(resampled_TMB)
    # What chance alone makes of a model that changed nothing: no loss below that is distinguishable from none.
    chance_M = np.quantile(overall_of(resampled_TMB - improvement_TM[..., None])[1], 0.5 + confidence / 2, axis=-1)
    found: dict[str, Any] = {}
    for m, name in enumerate(models):
        (low, high), dI_error = interval(dI_M[m], dI_MB[m], confidence)
        (least, most), dE_error = interval(dE_M[m], dE_MB[m], confidence)
        least = 0.0 if dE_M[m] <= chance_M[m] else max(0.0, least)
        found[name] = {"dI": [low, high], "dI_error": dI_error, "dE": [least, max(least, most)], "dE_error": dE_error}
        if m:
            found[name]["gap"] = list(interval(dI_M[m] - dI_M[0], dI_MB[m] - dI_MB[0], confidence)[0])
    return {"about": f"{confidence:.0%} interval over {resamples} resamples of the test records", "models": found}


def spread_over_runs(values: Sequence[float], confidence: float = 0.95) -> tuple[float, Interval, float]:
    """Mean of an overall metric over runs, its interval of t(k-1) standard errors, and the standard error.

    Raises:
        InputError: for fewer than 2 runs.
    """
    if len(values) < 2:
        raise InputError("an error over runs needs at least 2 runs in --results. Give the others, or leave --runs out.")
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
    reach = t_quantile(0.5 + confidence / 2, len(values) - 1) * error
    return mean, (mean - reach, mean + reach), error


def read_task_scores(files: Mapping[str, Sequence[Path]]) -> list[np.ndarray]:
    """The record scores of every task.

    Args:
        files: column (`task`, or `task:metric`) -> metric files, the baseline's first; the record scores lie beside
            each as `.per_record.jsonl`.

    Returns:
        of each task, in order of appearance, float64 [K, M + 1, R].

    Raises:
        InputError: a file that is missing, broken or of other records; a score that is no mean over records.
    """
    tasks: dict[str, list[Path]] = {}
    for column, metric_files in files.items():
        tasks.setdefault(column.partition(":")[0], []).extend(metric_files)
    found = []
    for metric_files in tasks.values():
        scores = read_same_records([file.with_suffix(PER_RECORD) for file in metric_files])
        for file, mean in zip(metric_files, scores.mean(axis=1), strict=True):
            _refuse_no_mean(file, float(mean))
        found.append(scores.reshape(-1, len(next(iter(files.values()))), scores.shape[1]))
    return found


def _refuse_no_mean(metric_file: Path, mean: float) -> None:
    content = read_json(metric_file)
    expected = float(content["score"])
    # Benchmarks print percent of records that score 0 to 1; improvements are relative and do not change.
    if all(abs(scale * mean - expected) > SAME_SCORE * max(1.0, abs(expected)) for scale in (1, 100)):
        raise InputError(
            f"{metric_file}: {content['metric']} is not the mean of its records' scores ({mean:g}, not {expected:g}) "
            "and cannot be resampled. Leave --bootstrap out (bootstrap: 0 of a benchmark file)."
        )
