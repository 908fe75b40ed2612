"""Accuracy of predicted boxes: the share whose overlap (IoU) with the true box is above 0.5.

A box is the first [x1, y1, x2, y2] in the text, in [0, 1] of the image padded to a square.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from eval.answers import Answer
from eval.command import evaluator
from eval.registry import metric
from eval.scores import Scores, entry, hit_scores
from visatb.boxes import Box, box_fault, read_box
from visatb.cli import run
from visatb.errors import InputError


def box_iou(box: Box, other: Box) -> float:
    """Intersection over union of two boxes.

    In float32, as the published scores were computed: at an overlap of a half the last bit decides. Shapely would use
    float64 and swap corners into order; here a box with x2 <= x1 or y2 <= y1 meets nothing.

    Returns:
        The overlap in [0, 1]; 0 if it is not defined (both boxes empty, or numbers beyond float32).
    """
    with np.errstate(all="ignore"):
        a, b = np.asarray(box, dtype=np.float32), np.asarray(other, dtype=np.float32)
        sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), np.float32(0))
        shared = sides[0] * sides[1]
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
        iou = float(shared / union)
    return iou if np.isfinite(iou) else 0.0


@metric("iou", "iou_accuracy", title="IoU > 0.5")
def score(answers: Sequence[Answer], broken_truth: Literal["fail", "miss"] = "fail") -> Scores:
    """The share of predicted boxes with IoU > 0.5 (strictly).

    Args:
        answers: at least one.
        broken_truth: "fail" refuses a truth without a box, with an empty one, or with one outside [0, 1] (pixels);
            "miss" counts the first two against the model and compares the last as it stands.

    Raises:
        InputError: if a truth is not text, or is broken and `broken_truth` is "fail".
    """
    per_record, outside, unmatched = [], 0, 0
    for answer in answers:
        truth = _true_box(answer, broken_truth)
        predicted = None if answer.prediction is None else read_box(answer.prediction)
        unmatched += truth is None
        outside += predicted is not None and box_fault(predicted) == "out of range"
        iou = 0.0 if truth is None or predicted is None else box_iou(truth, predicted)
        per_record.append(entry(answer, iou > 0.5, answer.truth, malformed=predicted is None, iou=iou))
    notes, total = [], len(per_record)
    if unmatched:
        notes.append(f"{unmatched} of {total} truths hold no box that can be matched and count as misses")
    if outside:
        notes.append(f"{outside} of {total} predicted boxes lie outside [0, 1], as pixels do")
    return hit_scores("iou_accuracy", per_record, notes)


def _true_box(answer: Answer, broken_truth: str) -> Box | None:
    at = f"{answer.where}: conversations[1].value"
    if not isinstance(answer.truth, str):
        raise InputError(f"{at} must be text that holds a box. Fix the record.")
    box = read_box(answer.truth)
    fault = "no box" if box is None else box_fault(box)
    if fault is None:
        return box
    if broken_truth == "miss":
        return box if box is not None and box[0] < box[2] and box[1] < box[3] else None
    if fault == "out of range":
        raise InputError(
            f"{at} must hold a box within [0, 1] of the padded image, got {answer.truth[:80]!r}. "
            "Convert pixels with scripts_visatb.data.boxes --from pixel-xyxy."
        )
    raise InputError(
        f"{at} must hold a box [x1, y1, x2, y2] with x1 < x2 and y1 < y2, got {answer.truth[:80]!r}. "
        "Fix the record, or pass --broken-truth miss to count it as a miss."
    )


main = evaluator(
    "grounding.py",
    __doc__,
    score,
    broken_truth="what to do with a truth that holds no box or an empty one, which no prediction can match, or one "
    "outside [0, 1]: refuse the file; or count the first two as a miss and compare the last as it stands",
)

if __name__ == "__main__":
    run(main)
