"""Pictures of the demo: a coloured shape, a character, or a small bar chart.

A picture is a frozen description (objects and positions in pixels) that `render` draws exactly, so that captions,
answers and boxes are correct by construction. All randomness comes from the `random.Random` that the caller passes.
"""

import hashlib
import random
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

# Box: (x1, y1, x2, y2) in pixels of the picture, right and bottom edge exclusive.
Box = tuple[int, int, int, int]
Rgb = tuple[int, int, int]

# Always bright on dark: a shape then looks the same in every colour, which a small tower learns in seconds.
COLORS: dict[str, Rgb] = {
    "red": (245, 60, 60),
    "green": (60, 215, 90),
    "blue": (80, 130, 255),
    "yellow": (250, 225, 60),
    "purple": (200, 100, 245),
    "white": (245, 245, 245),
}
BACKGROUNDS: dict[str, Rgb] = {
    "black": (12, 12, 18),
    "gray": (66, 68, 74),
    "navy": (14, 20, 96),
    "maroon": (96, 14, 24),
    "olive": (76, 72, 10),
    "teal": (8, 78, 78),
}
PLAIN = ("black", "gray")  # backgrounds of cards and charts
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "large")
CHARACTERS = tuple("0123456789CEHKTX")  # what a card may show; none looks like another
MAX_BAR = 4

# A picture is made of cells, one for each patch of the vision tower; every shape, character and storey of a bar is in
# one. What a patch shows then never depends on its neighbours, and the tower is as good as perfect in seconds.
GRID = 4
CELL = 10
# Columns and rows of pictures. Most are not square, so that padding matters; the padding is whole cells.
_CANVASES = ((4, 4), (4, 2), (2, 4), (4, 4))
# From the edge of a cell to that of a shape.
_INSETS = {"small": 2, "large": 0}
_BAR_INSET = 1
_DUST = (140, 140, 140)
_FONT_SIZE = 12


@dataclass(frozen=True)
class Shape:
    """A coloured shape. `box` bounds its pixels exactly."""

    kind: str
    color: str
    size: str
    box: Box

    @property
    def name(self) -> str:
        """Size, colour and kind, such as `large red circle`."""
        return f"{self.size} {self.color} {self.kind}"

    @property
    def center(self) -> tuple[float, float]:
        """Centre of the box in pixels."""
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2


@dataclass(frozen=True)
class Scene:
    """One shape, and grains of dust in other cells, which nobody asks about: no two pictures are alike.

    Attributes:
        dust: column and row of the cells with a grain.
    """

    width: int
    height: int
    background: str
    shape: Shape
    dust: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Card:
    """A character, and dust, as in a scene."""

    width: int
    height: int
    background: str
    character: str
    color: str
    box: Box
    dust: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Chart:
    """One to three bars from left to right: (colour, value 1..MAX_BAR, box)."""

    width: int
    height: int
    background: str
    bars: tuple[tuple[str, int, Box], ...]


Picture = Scene | Card | Chart


def describe_scene(rng: random.Random) -> Scene:
    """A random scene."""
    columns, rows, (x, y), dust = _strew(rng)
    size = rng.choice(SIZES)
    inset = _INSETS[size]
    box = (x * CELL + inset, y * CELL + inset, (x + 1) * CELL - inset, (y + 1) * CELL - inset)
    shape = Shape(rng.choice(SHAPES), rng.choice(tuple(COLORS)), size, box)
    return Scene(columns * CELL, rows * CELL, rng.choice(tuple(BACKGROUNDS)), shape, dust)


def describe_card(rng: random.Random) -> Card:
    """A random card."""
    columns, rows, (x, y), dust = _strew(rng)
    box = (x * CELL, y * CELL, (x + 1) * CELL, (y + 1) * CELL)
    color, background = rng.choice(tuple(COLORS)), rng.choice(PLAIN)
    return Card(columns * CELL, rows * CELL, background, rng.choice(CHARACTERS), color, box, dust)


def describe_chart(rng: random.Random) -> Chart:
    """A random chart of one to three bars, all of different colour."""
    bars = rng.randint(1, 3)
    side = GRID * CELL
    values = [rng.randint(1, MAX_BAR) for _ in range(bars)]
    boxes = [
        (x * CELL + _BAR_INSET, side - value * CELL, (x + 1) * CELL - _BAR_INSET, side)
        for x, value in zip(sorted(rng.sample(range(GRID), bars)), values, strict=True)
    ]
    colors = rng.sample(tuple(COLORS), bars)
    return Chart(side, side, rng.choice(PLAIN), tuple(zip(colors, values, boxes, strict=True)))


def _strew(rng: random.Random) -> tuple[int, int, tuple[int, int], tuple[tuple[int, int], ...]]:
    """Columns and rows of a picture, a cell for what it shows, and those of the dust."""
    columns, rows = rng.choice(_CANVASES)
    cell, *dust = rng.sample([(x, y) for x in range(columns) for y in range(rows)], rng.randint(2, 5))
    return columns, rows, cell, tuple(sorted(dust))


def is_for_pretraining(picture: Picture) -> bool:
    """Whether a description belongs to the half that only the base model may see; the benchmark draws from the other.

    A hash of the description decides, so the two sets of pictures are disjoint for all seeds.
    """
    return hashlib.sha256(repr(picture).encode()).digest()[0] % 2 == 0


def render(picture: Picture) -> Image.Image:
    """The RGB picture of a description."""
    image = Image.new("RGB", (picture.width, picture.height), BACKGROUNDS[picture.background])
    draw = ImageDraw.Draw(image)
    if not isinstance(picture, Chart):
        for x, y in picture.dust:
            draw.point((x * CELL + CELL // 2, y * CELL + CELL // 2), fill=_DUST)
    if isinstance(picture, Scene):
        x1, y1, x2, _ = picture.shape.box
        image.paste(COLORS[picture.shape.color], (x1, y1), _shape_mask(picture.shape.kind, x2 - x1))
    elif isinstance(picture, Card):
        image.paste(COLORS[picture.color], picture.box, _character_mask(picture.character))
    else:
        for color, _, (x1, y1, x2, y2) in picture.bars:
            draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=COLORS[color])
    return image


def in_padded_square(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    """The box in [0, 1] of the square to which LLaVA's `pad` pads the picture (centred, side = the longer side)."""
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    x1, y1, x2, y2 = box
    return (x1 + left) / side, (y1 + top) / side, (x2 + left) / side, (y2 + top) / side


@lru_cache(maxsize=256)
def _shape_mask(kind: str, side: int) -> Image.Image:
    """A mask [side, side] of 0 and 255 that reaches all four edges of its box."""
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    last = side - 1
    if kind == "circle":
        draw.ellipse((0, 0, last, last), fill=255)
    elif kind == "square":
        draw.rectangle((0, 0, last, last), fill=255)
    elif kind == "triangle":
        draw.polygon([(last / 2, 0), (last, last), (0, last)], fill=255)
    else:
        third = side / 3
        draw.rectangle((0, round(third), last, round(2 * third) - 1), fill=255)
        draw.rectangle((round(third), 0, round(2 * third) - 1, last), fill=255)
    return mask


@lru_cache(maxsize=16)
def _character_mask(character: str) -> Image.Image:
    """A mask of one cell with a character in its middle, in the font that comes with Pillow's pinned version."""
    mask, font = Image.new("L", (CELL, CELL), 0), ImageFont.load_default(_FONT_SIZE)
    ImageDraw.Draw(mask).text((CELL / 2, CELL / 2), character, fill=255, font=font, anchor="mm")
    return mask
