"""Pictures of the demo: coloured shapes, words and numbers, small bar charts.

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

# Always bright on dark: a shape then looks the same in every colour, which a small tower learns in a minute.
COLORS: dict[str, Rgb] = {
    "red": (245, 60, 60),
    "green": (60, 215, 90),
    "blue": (80, 130, 255),
    "yellow": (250, 225, 60),
    "purple": (200, 100, 245),
    "white": (245, 245, 245),
}
BACKGROUNDS: dict[str, Rgb] = {"black": (12, 12, 18), "gray": (66, 68, 74)}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "large")
# Words a card may show, short enough to be drawn large.
WORDS = ("ax", "bee", "cow", "dog", "fly", "hut", "jam", "map", "owl", "sun")
MAX_BAR = 5

# Side of the padded square, and widths and heights of pictures. Most are not square, so that padding matters.
_SIDE = 60
_CANVASES = ((60, 60), (60, 48), (48, 60), (60, 36), (36, 60))
# Edges are multiples of a tenth of the padded square: a box then has few digits, which a short training can learn.
_UNIT = _SIDE // 10
_SIDES = {"small": 3 * _UNIT, "large": 5 * _UNIT}
_TRIES = 40


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
    """One to three shapes, from left to right, no two of the same colour and kind."""

    width: int
    height: int
    background: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Card:
    """A word (drawn in capitals) or a digit."""

    width: int
    height: int
    background: str
    text: str
    color: str
    origin: tuple[int, int]
    font_size: int


@dataclass(frozen=True)
class Chart:
    """Two or three bars from left to right: (colour, value 1..MAX_BAR, box)."""

    width: int
    height: int
    background: str
    bars: tuple[tuple[str, int, Box], ...]


Picture = Scene | Card | Chart


def describe_scene(rng: random.Random, count: int | None = None) -> Scene:
    """A random scene of `count` shapes, or of one to three."""
    width, height = rng.choice(_CANVASES)
    wanted = count or rng.choice((1, 2, 2, 3, 3))
    while True:
        shapes: list[Shape] = []
        looks = rng.sample([(kind, color) for kind in SHAPES for color in COLORS], wanted)
        sizes = sorted(rng.choice(SIZES) for _ in range(wanted))  # large ones first, while there is room
        for (kind, color), size in zip(looks, sizes, strict=True):
            shape = _place(rng, kind, color, size, width, height, shapes)
            if shape is None:
                break
            shapes.append(shape)
        if len(shapes) == wanted:
            shapes.sort(key=lambda shape: shape.center)
            return Scene(width, height, rng.choice(tuple(BACKGROUNDS)), tuple(shapes))


def describe_card(rng: random.Random) -> Card:
    """A random card with a digit or a word."""
    width, height = rng.choice(_CANVASES)
    text = str(rng.randint(0, 9)) if rng.random() < 0.5 else rng.choice(WORDS)
    margin = 2
    font_size = round(0.9 * min(width, height))
    while True:
        x1, y1, x2, y2 = _text_box(text, font_size)
        if x2 - x1 <= width - 2 * margin and y2 - y1 <= height - 2 * margin:
            break
        font_size -= 1
    origin = (
        rng.randint(margin, width - margin - (x2 - x1)) - x1,
        rng.randint(margin, height - margin - (y2 - y1)) - y1,
    )
    background = rng.choice(tuple(BACKGROUNDS))
    return Card(width, height, background, text, rng.choice(tuple(COLORS)), origin, font_size)


def describe_chart(rng: random.Random) -> Chart:
    """A random chart of two or three bars, all of different colour and one of them the highest."""
    width, height = rng.choice(_CANVASES)
    bars = rng.randint(2, 3)
    colors = rng.sample(tuple(COLORS), bars)
    values = [rng.randint(1, MAX_BAR) for _ in range(bars)]
    while values.count(max(values)) > 1:
        values = [rng.randint(1, MAX_BAR) for _ in range(bars)]
    slot = (width - 4) // bars
    wide = max(6, round(slot * 0.7))
    unit = (height - 8) / MAX_BAR
    floor = height - 3
    boxes = []
    for n, value in enumerate(values):
        left = 2 + n * slot + (slot - wide) // 2
        boxes.append((left, floor - round(value * unit), left + wide, floor))
    return Chart(width, height, rng.choice(tuple(BACKGROUNDS)), tuple(zip(colors, values, boxes, strict=True)))


def is_for_pretraining(picture: Picture) -> bool:
    """Whether a description belongs to the half that only the base model may see; the benchmark draws from the other.

    A hash of the description decides, so the two sets of pictures are disjoint for all seeds.
    """
    return hashlib.sha256(repr(picture).encode()).digest()[0] % 2 == 0


def render(picture: Picture) -> Image.Image:
    """The RGB picture of a description."""
    image = Image.new("RGB", (picture.width, picture.height), BACKGROUNDS[picture.background])
    draw = ImageDraw.Draw(image)
    if isinstance(picture, Scene):
        for shape in picture.shapes:
            x1, y1, x2, y2 = shape.box
            mask = _shape_mask(shape.kind, x2 - x1)
            image.paste(COLORS[shape.color], (x1, y1), mask)
    elif isinstance(picture, Card):
        draw.text(picture.origin, _shown(picture.text), fill=COLORS[picture.color], font=_font(picture.font_size))
    else:
        line = (90, 90, 90)
        draw.line((1, picture.height - 3, picture.width - 2, picture.height - 3), fill=line)
        for color, _, (x1, y1, x2, y2) in picture.bars:
            draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=COLORS[color])
    return image


def text_box(card: Card) -> Box:
    """The box of a card's text in the picture."""
    x1, y1, x2, y2 = _text_box(card.text, card.font_size)
    left, top = card.origin
    return left + x1, top + y1, left + x2, top + y2


def letter_boxes(card: Card) -> list[tuple[str, Box]]:
    """Every character of a card as drawn, with the box of its column of the text."""
    _, top, _, bottom = text_box(card)
    shown, font = _shown(card.text), _font(card.font_size)
    edges = [card.origin[0] + font.getlength(shown[:n]) for n in range(len(shown) + 1)]
    return [(shown[n], (round(edges[n]), top, round(edges[n + 1]), bottom)) for n in range(len(shown))]


def in_padded_square(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    """The box in [0, 1] of the square to which LLaVA's `pad` pads the picture (centred, side = the longer side)."""
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    x1, y1, x2, y2 = box
    return (x1 + left) / side, (y1 + top) / side, (x2 + left) / side, (y2 + top) / side


def _place(
    rng: random.Random, kind: str, color: str, size: str, width: int, height: int, others: list[Shape]
) -> Shape | None:
    """A shape at a free position, None if none was found."""
    side = _SIDES[size]
    for _ in range(_TRIES):
        x1, y1 = rng.randrange(0, width - side + 1, _UNIT), rng.randrange(0, height - side + 1, _UNIT)
        box = (x1, y1, x1 + side, y1 + side)
        if not any(_touch(box, other.box) for other in others):
            return Shape(kind, color, size, box)
    return None


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


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


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with Pillow: the same on every machine with the pinned version."""
    return ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def _text_box(text: str, font_size: int) -> Box:
    """The box of a text drawn at (0, 0)."""
    return tuple(int(edge) for edge in _font(font_size).getbbox(_shown(text)))


def _shown(text: str) -> str:
    return text.upper()
