"""How sure a weighting is: over several runs of the matrix, or over resampled validation records.

A weight whose interval holds 1 is not told apart from an equal weight by the validation sets at hand.
"""

# N units that are weighted, J measured tasks, M = N + 1 models, R records of a task, B resamples

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.score_matrix import BASE, ScoreMatrix
from visatb.errors import InputError
from visatb.files import parse_json, read_text

if TYPE_CHECKING:
    from weighting_visatb import Weighting

QUANTITIES = ("contributions", "contribution_out", "contribution_in", "difficulty", "weight")
PER_RECORD = ".per_record.jsonl"
_SAME_SCORE = 1e-6  # relative; a metric file holds the mean of its records


@dataclass(frozen=True)
class Spread:
    """How far the quantities of a weighting scatter.

    Attributes:
        about: what was varied, for readers.
        low, high: quantity (one of QUANTITIES) -> float64 of its shape: the ends of an interval, or mean -/+ one
            standard error.
        failed: runs or resamples in which the measurement failed; they are left out.
        total: all of them.
    """

    about: str
    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]
    failed: int
    total: int

    def to_json(self) -> dict[str, Any]:
        """The content of `spread` in weights.json."""
        return {
            "about": self.about,
            "failed": self.failed,
            "total": self.total,
            "low": {name: value.tolist() for name, value in self.low.items()},
            "high": {name: value.tolist() for name, value in self.high.items()},
        }


def mean_matrix(matrices: Sequence[ScoreMatrix]) -> ScoreMatrix:
    """The matrix of mean scores of several runs (seeds).

    Raises:
        InputError: if they do not score the same tasks.
    """
    first = matrices[0]
    for other in matrices[1:]:
        if (other.tasks, other.units) != (first.tasks, first.units):
            raise InputError(f"{other.source}: must score the tasks of {first.source}. Measure the same tasks.")
    return replace(
        first,
        source=", ".join(matrix.source for matrix in matrices),
        mini_J=np.mean([matrix.mini_J for matrix in matrices], axis=0),
        score_NJ=np.mean([matrix.score_NJ for matrix in matrices], axis=0),
    )


def spread_of_runs(
    matrices: Sequence[ScoreMatrix], weigh: Callable[[ScoreMatrix], "Weighting"], centre: "Weighting"
) -> Spread:
    """One standard error of the mean on either side of `centre`, from several runs of the matrix.

    Args:
        matrices: one per run, at least 2.
        weigh: weighs one of them; an InputError counts the run as failed.
        centre: the weighting of the mean matrix.

    Raises:
        InputError: if fewer than 2 runs can be weighed.
    """
    weightings = _weighed(matrices, weigh, centre)
    if len(weightings) < 2:
        raise InputError(f"{matrices[0].source}: fewer than 2 of {len(matrices)} runs can be weighed. Measure again.")
    error = {
        name: np.std([getattr(w, name) for w in weightings], axis=0, ddof=1) / np.sqrt(len(weightings))
        for name in QUANTITIES
    }
    return Spread(
        about=f"one standard error over {len(weightings)} runs",
        low={name: getattr(centre, name) - error[name] for name in QUANTITIES},
        high={name: getattr(centre, name) + error[name] for name in QUANTITIES},
        failed=len(matrices) - len(weightings),
        total=len(matrices),
    )


def bootstrap(
    matrix: ScoreMatrix,
    record_scores: Sequence[np.ndarray],
    weigh: Callable[[ScoreMatrix], "Weighting"],
    centre: "Weighting",
    resamples: int,
    confidence: float = 0.95,
    seed: int = 0,
) -> Spread:
    """Percentile intervals over resampled validation records.

    The records of a task are drawn with replacement, the same draw for all models, which answered the same records.
    A CIDEr score of a record keeps the document frequencies of the whole set.

    Args:
        matrix: the scores.
        record_scores: of each task j float64 [M, R], the score of every record under the common model (first), every
            unit's model, and where the matrix has single-task scores the model of each (little data first).
        weigh: weighs a resampled matrix, at a fixed temperature; an InputError counts the resample as failed.
        centre: the weighting of the matrix itself.
        resamples: B >= 2.
        confidence: share of the resamples inside the interval.
        seed: of the draws.

    Raises:
        InputError: if the measurement fails in more than half of the resamples.
    """
    draw = np.random.default_rng(seed)
    score_JBM = [_resampled_means(scores_MR, resamples, draw) for scores_MR in record_scores]
    weightings = _weighed([_resampled(matrix, score_JBM, b) for b in range(resamples)], weigh, centre)
    failed = resamples - len(weightings)
    if 2 * failed > resamples:
        raise InputError(
            f"{matrix.source}: in {failed} of {resamples} resamples of the validation records a task's own data does "
            "not raise its score: the weights are noise. Validate on more records or train on larger subsets."
        )
    ends = (0.5 - confidence / 2, 0.5 + confidence / 2)
    low, high = ({}, {})
    for name in QUANTITIES:
        low[name], high[name] = np.quantile([getattr(w, name) for w in weightings], ends, axis=0)
    return Spread(
        about=f"{confidence:.0%} interval over {resamples} resamples of the validation records",
        low=low,
        high=high,
        failed=failed,
        total=resamples,
    )


def read_record_scores(folder: str | Path, matrix: ScoreMatrix) -> list[np.ndarray]:
    """The score of every validation record under every model of a matrix.

    Args:
        folder: `<model>/<task>.per_record.jsonl` as eval/*.py --per-record and the run graph write them; a model's
            folder is named as its row (`mini`, `VQAv2`, `VQAv2+mini`, `VQAv2-plus-mini`, `STL-VQAv2`), with or without
            `_val`; those of single-task scores `mini-STL-VQAv2` and `STL-VQAv2`.
        matrix: the scores, which must be the means of the records'.

    Returns:
        of each task float64 [M, R], in the order that `bootstrap` takes.

    Raises:
        InputError: a file that is missing, broken, of other records than the first model's, or of another score.
    """
    root = Path(folder)
    models = [(matrix.common,)]
    # A run of several forms has the folders of all: which are meant follows from what they are compared with.
    affixes = (("", ""), ("STL-", "")) if matrix.common == BASE else (("", ""), ("", "+mini"), ("", "-plus-mini"))
    models += [tuple(f"{before}{unit}{after}" for before, after in affixes) for unit in matrix.units]
    homes = [_home(root, stems) for stems in models]
    singles = {"mini-STL-": matrix.single_mini_J, "STL-": matrix.single_own_J}
    found = []
    for j, task in enumerate(matrix.tasks):
        pairs = list(zip(homes, (matrix.mini_J[j], *matrix.score_NJ[:, j]), strict=True))
        pairs += [
            (_home(root, (prefix + task,)), single[j]) for prefix, single in singles.items() if single is not None
        ]
        rows, first = [], None  # of each model the scores in the order of the first one's records
        for home, expected in pairs:
            file = home / f"{task}{PER_RECORD}"
            scores = _read_scores(file)
            first = first or (file, scores.keys())
            if scores.keys() != first[1]:
                raise InputError(f"{file}: scores other records than {first[0]}. Score the same questions.")
            mean = sum(scores.values()) / len(scores)
            if abs(mean - expected) > _SAME_SCORE * max(1.0, abs(expected)):
                raise InputError(
                    f"{file}: its mean is {mean:g}, the matrix says {expected:g}. Score the answers again."
                )
            rows.append([scores[position] for position in first[1]])
        found.append(np.array(rows))
    return found


def _weighed(
    matrices: Sequence[ScoreMatrix], weigh: Callable[[ScoreMatrix], "Weighting"], centre: "Weighting"
) -> list["Weighting"]:
    """The weightings of the matrices that can be weighed, and whose units are those of `centre`."""
    weightings = []
    for matrix in matrices:
        try:
            weighting = weigh(matrix)
        except InputError:
            continue
        if weighting.tasks == centre.tasks:
            weightings.append(weighting)
    return weightings


def _resampled(matrix: ScoreMatrix, score_JBM: Sequence[np.ndarray], b: int) -> ScoreMatrix:
    """The matrix of resample b."""
    score_MJ = np.stack([score_BM[b] for score_BM in score_JBM], axis=1)
    units = len(matrix.units)
    singles = iter(score_MJ[1 + units :])
    return replace(
        matrix,
        mini_J=score_MJ[0],
        score_NJ=score_MJ[1 : 1 + units],
        single_mini_J=None if matrix.single_mini_J is None else next(singles),
        single_own_J=None if matrix.single_own_J is None else next(singles),
    )


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


def _read_scores(file: Path) -> dict[int, float]:
    """Position -> score of a per-record file."""
    scores: dict[int, float] = {}
    for n, line in enumerate(read_text(file).splitlines(), 1):
        entry = parse_json(line, f"{file} line {n}")
        position, score = (entry.get("position"), entry.get("score")) if isinstance(entry, dict) else (None, None)
        if not isinstance(position, int) or isinstance(score, bool) or not isinstance(score, int | float):
            raise InputError(
                f"{file} line {n}: must have a position and a score, got {json.dumps(entry)[:80]}. Mend it."
            )
        if position in scores:
            raise InputError(f"{file} line {n}: position {position} is scored twice. Score the answers again.")
        scores[position] = float(score)
    if not scores:
        raise InputError(f"{file}: holds no record. Score the answers again.")
    return scores
