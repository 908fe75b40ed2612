"""Pixels from a table are those of transformers' CLIPImageProcessor, to the bit, and only where it would make them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessor

from llava.data import images
from llava.data.images import process_image

SIZES = st.tuples(st.integers(3, 150), st.integers(3, 150))


def drawn(size, seed):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def processor(edge=28, height=28, width=28, **settings):
    return CLIPImageProcessor(size={"shortest_edge": edge}, crop_size={"height": height, "width": width}, **settings)


def by_transformers(image, image_processor, pad):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "_is_plain_clip", lambda _: False)
        return process_image(image, image_processor, pad)


@settings(deadline=None, max_examples=60)
@given(
    SIZES, st.booleans(), st.integers(0, 9), st.sampled_from([(28, 28, 28), (30, 28, 17), (28, 40, 28), (16, 9, 15)])
)
def test_pixels_are_those_of_the_processor_for_any_shape(size, pad, seed, sides):
    image, made = drawn(size, seed), processor(*sides)
    assert torch.equal(process_image(image, made, pad), by_transformers(image, made, pad))


def test_every_byte_of_every_channel_has_the_processors_value():
    ramp = np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16)] * 3, axis=-1)
    made = processor(16, 16, 16, image_mean=[0.1, 0.5, 0.9], image_std=[0.2, 0.3, 0.7])
    found = process_image(Image.fromarray(ramp), made, False)
    assert torch.equal(found, by_transformers(Image.fromarray(ramp), made, False))
    assert found.dtype == torch.float32 and found.is_contiguous()


@pytest.mark.parametrize("step", ["do_rescale", "do_normalize", "do_center_crop"])
def test_a_processor_without_a_step_is_called_itself(monkeypatch, step):
    monkeypatch.setattr(images, "_looked_up", None)
    image = drawn((40, 28), 0)
    made = processor(**{step: False})
    assert torch.equal(process_image(image, made, True), by_transformers(image, made, True))


def test_a_users_own_processor_is_called_itself(monkeypatch):
    class Inverted(CLIPImageProcessor):
        def __call__(self, *given, **settings):
            made = super().__call__(*given, **settings)
            made["pixel_values"] = -made["pixel_values"]
            return made

    plain, own = processor(), Inverted(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    image = drawn((40, 28), 0)
    assert torch.equal(process_image(image, own, False), -process_image(image, plain, False))
