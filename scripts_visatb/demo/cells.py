"""Content of each cell of a picture: the training targets of the vision tower and inputs of the language model.

A picture, padded to a square, has a cell for each patch of the vision tower. Each cell answers a few questions: its
place, the background, the kind, colour and size of a shape, a character.
"""

import math

import numpy as np

from scripts_visatb.demo import drawing
from scripts_visatb.demo.drawing import Box, Card, Picture, Scene

_PLACES = tuple(map(str, range(drawing.GRID)))
# Answers by question; the first of each is "does not apply".
QUESTIONS: dict[str, tuple[str, ...]] = {
    "column": ("none", *_PLACES),
    "row": ("none", *_PLACES),
    "ground": ("outside", *drawing.BACKGROUNDS),
    "kind": ("none", *drawing.SHAPES, "character", "bar"),
    "color": ("none", *drawing.COLORS),
    "size": ("none", *drawing.SIZES),
    "character": ("none", *drawing.CHARACTERS),
}


def answers_of_cells(picture: Picture) -> np.ndarray:
    """The answers about every cell, row by row: int64 [GRID * GRID, questions], positions in QUESTIONS' tuples."""
    answers = np.zeros((drawing.GRID, drawing.GRID, len(QUESTIONS)), dtype=np.int64)
    for n, place in enumerate(_PLACES):
        _cover(answers[:, n : n + 1], column=place)
        _cover(answers[n : n + 1], row=place)
    _cover(_inside(answers, picture, (0, 0, picture.width, picture.height)), ground=picture.background)
    if isinstance(picture, Scene):
        shape = picture.shape
        _cover(_inside(answers, picture, shape.box), kind=shape.kind, color=shape.color, size=shape.size)
    elif isinstance(picture, Card):
        said = {"kind": "character", "color": picture.color, "character": picture.character}
        _cover(_inside(answers, picture, picture.box), **said)
    else:
        for color, _, box in picture.bars:
            _cover(_inside(answers, picture, box), kind="bar", color=color)
    return answers.reshape(drawing.GRID**2, -1)


def _inside(answers: np.ndarray, picture: Picture, box: Box) -> np.ndarray:
    """The cells that a box touches."""
    x1, y1, x2, y2 = (edge * drawing.GRID for edge in drawing.in_padded_square(box, picture.width, picture.height))
    return answers[math.floor(y1) : math.ceil(y2), math.floor(x1) : math.ceil(x2)]


def _cover(cells: np.ndarray, **said: str) -> None:
    for n, (question, choices) in enumerate(QUESTIONS.items()):
        if question in said:
            cells[..., n] = choices.index(said[question])
