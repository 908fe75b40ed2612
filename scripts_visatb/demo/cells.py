"""Content of each cell of a picture: the training targets of the vision tower and inputs of the language model.

A picture, padded to a square, is divided into grid * grid cells, one for each patch of the vision tower. Each cell
answers a few questions: the background, or the kind, colour, size and position of a shape, a letter, a bar's value.
"""

import numpy as np

from scripts_visatb.demo import drawing
from scripts_visatb.demo.drawing import Box, Card, Picture, Scene

_TENTHS = tuple(map(str, range(11)))
_LETTERS = tuple(sorted({letter.upper() for word in drawing.WORDS for letter in word}))
# Answers by question; the first of each is "does not apply".
QUESTIONS: dict[str, tuple[str, ...]] = {
    "ground": ("outside", *drawing.BACKGROUNDS),
    "kind": ("none", *drawing.SHAPES, "letter", "bar"),
    "color": ("none", *drawing.COLORS),
    "size": ("none", *drawing.SIZES),
    "character": ("none", *"0123456789", *_LETTERS),
    "value": ("none", *map(str, range(1, drawing.MAX_BAR + 1))),
    "left": ("none", *_TENTHS),
    "top": ("none", *_TENTHS),
    "right": ("none", *_TENTHS),
    "bottom": ("none", *_TENTHS),
}
_COVERED = 0.25


def answers_of_cells(picture: Picture, grid: int) -> np.ndarray:
    """The answers about every cell, row by row: int64 [grid * grid, questions], positions in QUESTIONS' tuples."""
    answers = np.zeros((grid, grid, len(QUESTIONS)), dtype=np.int64)
    _cover(answers, picture, (0, 0, picture.width, picture.height), ground=picture.background)
    if isinstance(picture, Scene):
        for shape in picture.shapes:
            edges = drawing.in_padded_square(shape.box, picture.width, picture.height)
            tenths = dict(zip(("left", "top", "right", "bottom"), (str(round(10 * e)) for e in edges), strict=True))
            _cover(answers, picture, shape.box, kind=shape.kind, color=shape.color, size=shape.size, **tenths)
    elif isinstance(picture, Card):
        for letter, box in drawing.letter_boxes(picture):
            _cover(answers, picture, box, kind="letter", color=picture.color, character=letter)
    else:
        for color, value, box in picture.bars:
            _cover(answers, picture, box, kind="bar", color=color, value=str(value))
    return answers.reshape(grid * grid, -1)


def _cover(answers: np.ndarray, picture: Picture, box: Box, **said: str) -> None:
    """Write the answers of a box into every cell that it covers by at least a quarter."""
    grid = len(answers)
    x1, y1, x2, y2 = (edge * grid for edge in drawing.in_padded_square(box, picture.width, picture.height))
    starts = np.arange(grid)
    wide = np.clip(np.minimum(x2, starts + 1) - np.maximum(x1, starts), 0, None)
    tall = np.clip(np.minimum(y2, starts + 1) - np.maximum(y1, starts), 0, None)
    covered = np.outer(tall, wide) >= _COVERED
    for n, (question, choices) in enumerate(QUESTIONS.items()):
        if question in said:
            answers[covered, n] = choices.index(said[question])
