"""Text that the demo's language model is pretrained on: conversations about pictures that are written out as text.

A text picture is what the vision tower will later supply, patch for patch, in words: a square grid in which every cell
is one word, the colour, kind or size of what covers the cell, a letter of a written word, or the background. A model
that has learned to answer questions about such grids has to learn to see during tuning, not to spell or to reason.
"""

import random
from collections.abc import Callable, Iterator

from llava.conversation import conv_templates
from scripts_visatb.demo import annotations, drawing
from scripts_visatb.demo.drawing import Box, Card, Picture, Scene

OUTSIDE = "."
COVERED = 0.4


def text_picture(picture: Picture, grid: int, rng: random.Random) -> str:
    """A picture as grid * grid words, row by row; what is said of a covered cell is drawn by lot."""
    cells = [OUTSIDE] * (grid * grid)
    _fill(cells, grid, picture, (0, 0, picture.width, picture.height), lambda: picture.background)
    if isinstance(picture, Scene):
        for shape in picture.shapes:
            said = (shape.color, shape.kind, shape.color, shape.kind, shape.size)
            _fill(cells, grid, picture, shape.box, lambda said=said: rng.choice(said))
    elif isinstance(picture, Card):
        for letter, box in drawing.letter_boxes(picture):
            name = annotations.NUMBERS[int(letter)] if letter.isdigit() else letter.lower()
            said = (name, name, picture.color)
            _fill(cells, grid, picture, box, lambda said=said: rng.choice(said))
    else:
        for color, _, box in picture.bars:
            said = (color, color, "bar")
            _fill(cells, grid, picture, box, lambda said=said: rng.choice(said))
    return " ".join(cells)


def sample_turns(task: str, rng: random.Random, grid: int) -> list[dict[str, str]]:
    """The turns of a conversation of a task's kind about a text picture of the pretraining half."""
    picture = annotations.describe(task, rng)
    while picture is not None and not drawing.is_for_pretraining(picture):
        picture = annotations.describe(task, rng)
    turns = annotations.make_record(task, "train", 0, picture, rng)["conversations"]
    if picture is not None:
        turns[0]["value"] = turns[0]["value"].replace("<image>", text_picture(picture, grid, rng))
    return turns


def tokenizer_texts(seed: int, rounds: int = 300, grid: int = 7) -> Iterator[str]:
    """Prompts of all tasks' kinds, for the tokenizer to learn its pieces from."""
    rng = random.Random(f"{seed}/tokenizer")
    for _ in range(rounds):
        for task in annotations.SIZES:
            conversation = conv_templates["vicuna_v1"].copy()
            for turn in sample_turns(task, rng, grid):
                conversation.append_message(conversation.roles[turn["from"] == "gpt"], turn["value"])
            yield conversation.get_prompt().replace(conversation.sep2, " ")


def _fill(cells: list[str], grid: int, picture: Picture, box: Box, word: Callable[[], str]) -> None:
    """Write a word into every cell that the box covers by two fifths."""
    x1, y1, x2, y2 = (edge * grid for edge in drawing.in_padded_square(box, picture.width, picture.height))
    for row in range(grid):
        high = min(y2, row + 1) - max(y1, row)
        for column in range(grid):
            wide = min(x2, column + 1) - max(x1, column)
            if high > 0 and wide > 0 and high * wide >= COVERED:
                cells[row * grid + column] = word()
