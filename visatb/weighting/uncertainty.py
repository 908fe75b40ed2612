"""How sure a weighting is: over several runs of the matrix, or over resampled validation records.

A weight whose interval contains 1 cannot be distinguished from an equal weight by the measurements at hand.
"""

# N units that are weighted, J measured tasks, M = N + 1 models, R records of a task, B resamples, K runs

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from visatb.errors import InputError
from visatb.files import parse_json, read_text
from visatb.weighting.matrix import ScoreMatrix, mean_matrix
from visatb.weighting.settings import BASE, CONFIDENCE
from visatb.weighting.weigh import Weighting, weigh

# weight_difference [N, N] holds w_i - w_j: one weight is above another where its interval is above 0.
QUANTITIES = ("contributions", "contribution_out", "contribution_in", "difficulty", "weight", "weight_difference")
PER_RECORD = ".per_record.jsonl"
NOT_DISTINGUISHABLE = "not distinguishable from 1"
SAME_SCORE = 1e-6  # relative; a metric file holds the mean of its records

Weigh = Callable[[ScoreMatrix], Weighting]


@dataclass(frozen=True)
class Spread:
    """How far the quantities of a weighting scatter.

    Attributes:
        about: what was varied and how the interval is made, for readers.
        low, high: quantity (one of QUANTITIES) -> float64 of its shape: the ends of an interval.
        error: quantity -> float64 of its shape: one standard error.
        failed: runs or resamples in which a task's own data did not raise its score.
        total: all of them.
        rule: what became of those that failed, for readers.
    """

    about: str
    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]
    error: dict[str, np.ndarray] = field(default_factory=dict)
    failed: int = 0
    total: int = 0
    rule: str = ""

    def to_json(self) -> dict[str, Any]:
        """The content of `spread` in weights.json."""
        arrays = {
            name: {quantity: value.tolist() for quantity, value in getattr(self, name).items()}
            for name in ("low", "high", "error")
        }
        return {name: getattr(self, name) for name in ("about", "failed", "total", "rule")} | arrays


def weigh_alike(matrix: ScoreMatrix, weighting: Weighting, on_failed: str, min_gain: float) -> Weigh:
    """A function that weighs runs or resamples of a measurement as the whole was weighed.

    Its temperature stays, so that only the measurement varies. What is left out of the whole is left out of each part:
    chance may make it pass there. A part in which another task fails is clipped: to drop it would keep the lucky ones.

    Args:
        matrix: of the whole measurement.
        weighting, on_failed, min_gain: of `weigh` for it.
    """
    left_out_J = matrix.failed(min_gain) & (on_failed == "exclude")
    settings = (weighting.temperature, weighting.alpha, "clip", min_gain)
    return lambda part: weigh(part.without(left_out_J), *settings)


def spread_of_runs(
    matrices: Sequence[ScoreMatrix],
    weigh: Weigh,
    centre: Weighting,
    confidence: float = CONFIDENCE,
    min_gain: float = 0.0,
) -> Spread:
    """Intervals of t(K-1) standard errors around `centre`, from K runs of the matrix.

    The standard error is the jackknife's: of the weightings of the mean of all runs but one. For a linear quantity it
    is the standard error of the mean. No run leaves the mean or the error because of what it measured: the runs in
    which a task gained least are those that would go, and the mean gain of the others would be too large.

    Args:
        matrices: one per run, at least 2.
        weigh: as of `weigh_alike`, for the mean of all runs but one.
        centre: the weighting of the mean of all runs.
        confidence: of the intervals.
        min_gain: a run in which a task gains no more than this share of its score counts as failed in the report.
    """
    runs = len(matrices)
    weightings = [weigh(mean_matrix([*matrices[:k], *matrices[k + 1 :]])) for k in range(runs)]
    error = {name: jackknife_error(value) for name, value in _values(weightings).items()}
    reach, freedom = t_quantile(0.5 + confidence / 2, runs - 1), f"{runs - 1} degree{'s' * (runs > 2)} of freedom"
    return Spread(
        about=f"{confidence:.0%} interval over {runs} runs: {reach:.2f} (Student's t, {freedom}) "
        "standard errors of the mean",
        low={name: getattr(centre, name) - reach * error[name] for name in QUANTITIES},
        high={name: getattr(centre, name) + reach * error[name] for name in QUANTITIES},
        error=error,
        failed=sum(bool(matrix.failed(min_gain).any()) for matrix in matrices),
        total=runs,
        rule="every run counts in the mean and in the error",
    )


def jackknife_error(value_K: np.ndarray) -> np.ndarray:
    """The standard error of a quantity from its values with each of K runs left out: [K, ...] -> [...]."""
    runs = len(value_K)
    return np.sqrt((runs - 1) / runs * ((value_K - value_K.mean(axis=0)) ** 2).sum(axis=0))


def t_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t, for a probability in (0.5, 1) and whole degrees of freedom >= 1."""
    low, high = 0.0, math.pi / 2
    for _ in range(100):  # the distribution function is a finite sum in the angle arctan(t / sqrt(freedom))
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, freedom) < 2 * probability - 1 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _t_within(angle: float, freedom: int) -> float:
    """P(|t| < sqrt(freedom) tan(angle)): Abramowitz and Stegun 26.7.3 and 26.7.4."""
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k - 1) / k
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def bootstrap(
    matrix: ScoreMatrix,
    record_scores: Sequence[np.ndarray],
    weigh: Weigh,
    resamples: int,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    min_gain: float = 0.0,
) -> Spread:
    """Percentile intervals over resampled validation records.

    The records of a task are drawn with replacement, the same draw for all models, which answered the same records.
    A CIDEr score of a record keeps the document frequencies of the whole set.

    Args:
        matrix: the scores.
        record_scores: of each task j float64 [M, R], as of `read_record_scores`.
        weigh: as of `weigh_alike`; resamples that it refuses are left out.
        resamples: B >= 2.
        confidence: share of the resamples inside the interval.
        seed: of the draws.
        min_gain: a resample in which a task gains no more than this share of its score counts as failed.

    Raises:
        InputError: if the measurement fails in more than half of the resamples.
    """
    parts = _resampled(matrix, record_scores, resamples, np.random.default_rng(seed))
    judged_J = ~matrix.failed(min_gain)  # a task that failed as a whole was clipped there and is clipped here
    failed = sum(bool((part.failed(min_gain) & judged_J).any()) for part in parts)
    weightings = _weighed(parts, weigh)
    if 2 * failed > resamples or len(weightings) < 2:
        raise InputError(_noise(matrix, failed, resamples))
    values = _values(weightings)
    ends = (0.5 - confidence / 2, 0.5 + confidence / 2)
    low, high = ({name: np.quantile(value, end, axis=0) for name, value in values.items()} for end in ends)
    return Spread(
        about=f"{confidence:.0%} interval over {resamples} resamples of the validation records",
        low=low,
        high=high,
        error={name: value.std(axis=0, ddof=1) for name, value in values.items()},
        failed=failed,
        total=resamples,
        rule="the contributions of a failed task are clipped there",
    )


def read_record_scores(folder: str | Path, matrix: ScoreMatrix, measure: str | None = None) -> list[np.ndarray]:
    """The score of every validation record under every model of a matrix.

    Args:
        folder: `<model>/<task>.per_record.jsonl` as eval/*.py --per-record and the run graph write them; a model's
            folder is named as its row (`mini`, `VQAv2`, `VQAv2+mini`, `VQAv2-plus-mini`, `STL-VQAv2`), with or without
            `_val`; those of single-task scores `mini-STL-VQAv2` and `STL-VQAv2`.
        matrix: the scores, which must be the means of the records'.
        measure: how the models were made. A folder with it in front, as `lora-mini`, comes before one without.

    Returns:
        of each task float64 [M, R], the score of every record under the common model (first), every unit's model, and
        where the matrix has single-task scores the model of each (little data first).

    Raises:
        InputError: a file that is missing, broken, of other records than the first model's, or of another score.
    """
    root = Path(folder)
    before = (f"{measure}-", "") if measure else ("",)
    models = [(matrix.common,)]
    # A run of several forms has the folders of all: which are meant follows from what they are compared with.
    affixes = (("", ""), ("STL-", "")) if matrix.common == BASE else (("", ""), ("", "+mini"), ("", "-plus-mini"))
    models += [tuple(f"{prefix}{unit}{after}" for prefix, after in affixes) for unit in matrix.units]

    def home(stems: tuple[str, ...]) -> Path:
        return _home(root, [start + stem for start in before for stem in stems])

    homes = [home(stems) for stems in models]
    singles = {"mini-STL-": matrix.single_mini_J, "STL-": matrix.single_own_J}
    found = []
    for j, task in enumerate(matrix.tasks):
        pairs = list(zip(homes, (matrix.mini_J[j], *matrix.score_NJ[:, j]), strict=True))
        pairs += [(home((prefix + task,)), single[j]) for prefix, single in singles.items() if single is not None]
        files = [home / f"{task}{PER_RECORD}" for home, _ in pairs]
        scores_MR = read_same_records(files)
        for file, mean, (_, expected) in zip(files, scores_MR.mean(axis=1), pairs, strict=True):
            if abs(mean - expected) > SAME_SCORE * max(1.0, abs(expected)):
                raise InputError(f"{file}: its mean is {mean:g}, the matrix has {expected:g}. Score the answers again.")
        found.append(scores_MR)
    return found


def _values(weightings: Sequence[Weighting]) -> dict[str, np.ndarray]:
    """Quantity (of QUANTITIES) -> its values, [len(weightings), ...]."""
    return {name: np.array([getattr(weighting, name) for weighting in weightings]) for name in QUANTITIES}


def _noise(matrix: ScoreMatrix, failed: int, resamples: int) -> str:
    return (
        f"{matrix.source}: in {failed} of {resamples} resamples of the validation records a task's own data does not "
        "raise its score: the weights are noise. Validate on more records or train on larger subsets."
    )


def _weighed(matrices: Sequence[ScoreMatrix], weigh: Weigh) -> list[Weighting]:
    """The weightings of the matrices that can be weighed."""
    weightings = []
    for matrix in matrices:
        with suppress(InputError):
            weightings.append(weigh(matrix))
    return weightings


def _resampled(
    matrix: ScoreMatrix, record_scores: Sequence[np.ndarray], resamples: int, draw: np.random.Generator
) -> list[ScoreMatrix]:
    """The matrix of every resample."""
    score_BMJ = np.stack([_resampled_means(scores_MR, resamples, draw) for scores_MR in record_scores], axis=2)
    names = [name for name in ("single_mini_J", "single_own_J") if getattr(matrix, name) is not None]
    singles = 1 + len(matrix.units)
    parts = []
    for score_MJ in score_BMJ:
        single = dict(zip(names, score_MJ[singles:], strict=True))
        parts.append(replace(matrix, mini_J=score_MJ[0], score_NJ=score_MJ[1:singles], **single))
    return parts


def _resampled_means(scores_MR: np.ndarray, resamples: int, draw: np.random.Generator) -> np.ndarray:
    """Mean scores [B, M] of records drawn with replacement."""
    records = scores_MR.shape[1]
    count_BR = draw.multinomial(records, np.full(records, 1 / records), size=resamples)
    return count_BR @ scores_MR.T / records


def _home(root: Path, stems: Sequence[str]) -> Path:
    names = [stem + suffix for stem in stems for suffix in ("_val", "")]
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise InputError(f"{root}: has no folder {names[-1]} with per-record scores. Score with --per-record.")


def read_scores(file: Path) -> dict[int | str, float]:
    """Position -> score of a per-record file of eval/*.py, question id -> score of one of the zero-shot suite.

    Raises:
        InputError: naming the line.
    """
    scores: dict[int | str, float] = {}
    for n, line in enumerate(read_text(file).splitlines(), 1):
        entry = parse_json(line, f"{file} line {n}")
        key, score = None, None
        if isinstance(entry, dict):
            key, score = entry.get("position", entry.get("question_id")), entry.get("score")
        if not isinstance(key, int | str) or isinstance(score, bool) or not isinstance(score, int | float):
            raise InputError(
                f"{file} line {n}: must have a position and a score, got {json.dumps(entry)[:80]}. Score again."
            )
        if key in scores:
            raise InputError(f"{file} line {n}: position {key} is scored twice. Score the answers again.")
        scores[key] = float(score)
    if not scores:
        raise InputError(f"{file}: holds no record. Score the answers again.")
    return scores


def read_same_records(files: Sequence[Path]) -> np.ndarray:
    """The scores of the same records in several per-record files, float64 [files, R] in the order of the first.

    Raises:
        InputError: if a file has other records than the first, or as `read_scores`.
    """
    rows = [read_scores(file) for file in files]
    for file, row in zip(files, rows, strict=True):
        if row.keys() != rows[0].keys():
            raise InputError(f"{file}: scores other records than {files[0]}. Score the same questions.")
    return np.array([[row[key] for key in rows[0]] for row in rows])
