"""Boxes in answers: `[x1, y1, x2, y2]`, in [0, 1] of the image padded to a square."""

import math
import re

Box = tuple[float, float, float, float]

# Not across lines: "[0.1, 0.2,\n0.3, 0.4]" is not a box.
_BRACKET = re.compile(r"\[(.*?)\]")


def read_box(text: str) -> Box | None:
    """The box in the first bracket of a text.

    Numbers are what Python's float() takes (`.6`, `2e-1`, full-width digits). A doubled opening bracket is read as one.

    Returns:
        (x1, y1, x2, y2), or None if there is no bracket or it does not contain four finite numbers.
    """
    bracket = _BRACKET.search(text)
    if bracket is None:
        return None
    try:
        numbers = tuple(float(part) for part in bracket.group(1).replace("[", "").split(","))
    except ValueError:
        return None
    return numbers if len(numbers) == 4 and all(map(math.isfinite, numbers)) else None


def box_fault(box: Box) -> str | None:
    """Why a ground-truth box is invalid: "out of range" or "swapped or empty"; None if it is valid."""
    if not all(0 <= number <= 1 for number in box):
        return "out of range"
    return None if box[0] < box[2] and box[1] < box[3] else "swapped or empty"
