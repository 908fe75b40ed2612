"""Drawn pictures: the same from the same seed, and their boxes are where the pixels are."""

import random

import numpy as np
import pytest
from PIL import Image

from llava.mm_utils import expand2square
from scripts_visatb.demo import drawing

DESCRIBERS = (drawing.describe_scene, drawing.describe_card, drawing.describe_chart)


@pytest.mark.parametrize("describe", DESCRIBERS)
def test_same_seed_draws_the_same_pixels(describe):
    once, again = (describe(random.Random("7")) for _ in range(2))
    assert once == again
    assert drawing.render(once).tobytes() == drawing.render(again).tobytes()
    assert describe(random.Random("8")) != once


def pixels_of(image: Image.Image, color: str) -> tuple[int, int, int, int]:
    """The box that bounds the pixels of a colour, right and bottom edge exclusive."""
    rows, columns = np.nonzero((np.asarray(image) == drawing.COLORS[color]).all(-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_boxes_of_shapes_bound_their_pixels():
    rng = random.Random(0)
    for _ in range(100):
        scene = drawing.describe_scene(rng)
        image = drawing.render(scene)
        assert image.size == (scene.width, scene.height)
        assert pixels_of(image, scene.shape.color) == scene.shape.box, scene


def test_boxes_of_bars_bound_their_pixels_and_heights_follow_values():
    rng = random.Random(0)
    for _ in range(50):
        chart = drawing.describe_chart(rng)
        image = drawing.render(chart)
        heights = []
        for color, value, box in chart.bars:
            assert pixels_of(image, color) == box
            heights.append((value, box[3] - box[1]))
        assert sorted(heights) == sorted(heights, key=lambda pair: pair[1])


def test_a_character_fills_no_more_than_its_cell():
    rng = random.Random(0)
    for _ in range(100):
        card = drawing.describe_card(rng)
        x1, y1, x2, y2 = card.box
        ground, dust = drawing.BACKGROUNDS[card.background], (140, 140, 140)
        pixels = np.asarray(drawing.render(card))
        rows, columns = np.nonzero((pixels != ground).any(-1) & (pixels != dust).any(-1))
        assert len(rows) > 10
        assert columns.min() >= x1 and columns.max() < x2 and rows.min() >= y1 and rows.max() < y2


def test_characters_differ_in_many_pixels():
    drawn = {}
    for character in drawing.CHARACTERS:
        card = drawing.Card(10, 10, "black", character, "white", (0, 0, 10, 10), ())
        drawn[character] = np.asarray(drawing.render(card).convert("L"), dtype=int)
    for one in drawn:
        for other in drawn:
            assert one == other or (np.abs(drawn[one] - drawn[other]) > 80).sum() >= 5, (one, other)


def test_padded_square_is_the_one_that_the_model_sees():
    rng = random.Random(3)
    seen = set()
    for _ in range(60):
        scene = drawing.describe_scene(rng)
        shape = scene.shape
        square = expand2square(drawing.render(scene), (122, 116, 104))
        shares = drawing.in_padded_square(shape.box, scene.width, scene.height)
        assert all(0 <= share <= 1 for share in shares)
        assert tuple(round(share * square.width) for share in shares) == pixels_of(square, shape.color)
        seen.add((scene.width > scene.height) - (scene.width < scene.height))
    assert seen == {-1, 0, 1}


def test_pretraining_half_is_about_half_and_fixed():
    rng = random.Random(0)
    scenes = [drawing.describe_scene(rng) for _ in range(400)]
    share = sum(map(drawing.is_for_pretraining, scenes)) / len(scenes)
    assert 0.4 < share < 0.6
    assert [drawing.is_for_pretraining(scene) for scene in scenes] == list(map(drawing.is_for_pretraining, scenes))
