"""What the demo's language model reads before it ever sees: conversations about pictures that are told in words.

A told picture is a square grid; of every cell some words are said: the colour, kind and size of what covers it, where
that lies, or a letter of a text. The language model gets a cell as the sum of its words' embeddings, at the place
where LLaVA later puts a patch of the vision tower. A model that has learned to answer questions about told pictures has
little more to learn in tuning than to see.
"""

import random
from collections.abc import Iterator

from llava.conversation import conv_templates
from scripts_visatb.demo import annotations, drawing
from scripts_visatb.demo.drawing import Box, Card, Picture, Scene

# Pieces of the tokenizer, with its mark for a space where a word has one before it.
Cell = tuple[str, ...]

_COVERED = 0.4
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def told_picture(picture: Picture, grid: int) -> list[Cell]:
    """The words said of each of the grid * grid cells, row by row, as pieces of the tokenizer."""
    said: list[Cell] = [("▁outside",)] * (grid * grid)
    _cover(said, grid, picture, (0, 0, picture.width, picture.height), (f"▁{picture.background}",))
    if isinstance(picture, Scene):
        for shape in picture.shapes:
            place = place_words(drawing.in_padded_square(shape.box, picture.width, picture.height))
            _cover(said, grid, picture, shape.box, (f"▁{shape.color}", f"▁{shape.kind}", f"▁{shape.size}", *place))
    elif isinstance(picture, Card):
        for n, (letter, box) in enumerate(drawing.letter_boxes(picture), 1):
            piece = letter if letter.isdigit() else f"▁{letter.lower()}"
            _cover(said, grid, picture, box, (f"▁{picture.color}", piece, f"▁{annotations.NUMBERS[n]}"))
    else:
        for color, value, box in picture.bars:
            _cover(said, grid, picture, box, (f"▁{color}", "▁bar", str(value)))
    return said


def place_words(box: tuple[float, float, float, float]) -> Cell:
    """Four words for the tenths of a box: number words for x1, letters for y1, digits for x2, later letters for y2."""
    x1, y1, x2, y2 = (min(9, int(edge * 10)) for edge in box)
    return f"▁{annotations.NUMBERS[x1]}", f"▁{_LETTERS[y1]}", str(x2), f"▁{_LETTERS[10 + y2]}"


def told_pieces() -> list[str]:
    """All pieces that can be said of a cell; the tokenizer must know each as one."""
    pieces = ["▁outside", "▁bar", *"0123456789"]
    for names in (drawing.COLORS, drawing.BACKGROUNDS, drawing.SHAPES, drawing.SIZES, _LETTERS, annotations.NUMBERS):
        pieces.extend(f"▁{name}" for name in names)
    return sorted(set(pieces))


def sample_conversation(rng: random.Random, rounds: int) -> tuple[list[dict[str, str]], Picture | None]:
    """Turns of a conversation about a picture of the pretraining half (None: about nothing seen), and the picture.

    The first turn opens with `<image>` if there is a picture. Many questions are asked about one picture, of all tasks
    that fit it: that is how a short training sees many answers.
    """
    kind = rng.choices(("SceneCaption", "TextChartQA", "Chat"), (6, 3, 1))[0]
    picture = annotations.describe(kind, rng)
    while picture is not None and not drawing.is_for_pretraining(picture):
        picture = annotations.describe(kind, rng)
    if picture is None:
        asked = annotations.chat_rounds(rng)
    elif isinstance(picture, Scene):
        tasks = ("SceneCaption", "RegionCaption", "ShapeVQA", "ShapeVQA", "Grounding")
        asked = [annotations.ROUNDS[rng.choice(tasks)](rng, picture, 1)[0] for _ in range(rounds)]
    else:
        asked = annotations.text_chart_rounds(rng, picture, rounds)
    turns = []
    for n, (question, answer) in enumerate(asked):
        text = answer if isinstance(answer, str) else rng.choice(answer)
        if n > 0 and "\n" in question:
            question = question.split("\n")[0]  # the instruction was given; more answers fit into the same time
        turns.append({"from": "human", "value": f"<image>\n{question}" if picture is not None and n == 0 else question})
        turns.append({"from": "gpt", "value": text})
    return turns, picture


def tokenizer_texts(seed: int, count: int = 600) -> Iterator[str]:
    """Text for the tokenizer to learn its pieces from: conversations, and the words of told pictures."""
    rng = random.Random(f"{seed}/tokenizer")
    words = " ".join(piece[1:] for piece in told_pieces() if piece.startswith("▁"))
    for _ in range(count):
        conversation = conv_templates["vicuna_v1"].copy()
        for turn in sample_conversation(rng, rounds=4)[0]:
            conversation.append_message(conversation.roles[turn["from"] == "gpt"], turn["value"])
        yield conversation.get_prompt().replace(conversation.sep2, " ").replace("<image>", "")
        yield words


def _cover(said: list[Cell], grid: int, picture: Picture, box: Box, words: Cell) -> None:
    """Say the words of every cell that the box covers by two fifths."""
    x1, y1, x2, y2 = (edge * grid for edge in drawing.in_padded_square(box, picture.width, picture.height))
    for row in range(grid):
        high = min(y2, row + 1) - max(y1, row)
        for column in range(grid):
            wide = min(x2, column + 1) - max(x1, column)
            if high > 0 and wide > 0 and high * wide >= _COVERED:
                said[row * grid + column] = words
