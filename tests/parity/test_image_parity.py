"""Pixels equal the recorded reference, or are right where the reference is recorded as scrambled or clipped."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from llava.data.images import load_image
from llava.mm_utils import expand2square, process_images

pytestmark = pytest.mark.golden

PAD, NONE = SimpleNamespace(image_aspect_ratio="pad"), SimpleNamespace(image_aspect_ratio=None)
TOLERANCE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def processor(golden):
    return CLIPImageProcessor.from_pretrained(golden / "image_processor")


@pytest.fixture(scope="module")
def recorded(golden):
    with np.load(golden / "images.npz") as arrays:
        return dict(arrays)


def close(found, expected):
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), **TOLERANCE)


def test_squares_and_pixels_equal_the_recorded_ones(recorded, processor):
    images = [Image.fromarray(recorded[f"raw_{n:02d}"]) for n in range(12)]
    background = tuple(int(value * 255) for value in processor.image_mean)
    for n, image in enumerate(images):
        assert np.array_equal(np.asarray(expand2square(image, background)), recorded[f"square_{n:02d}"])
    close(process_images(images, processor, PAD), recorded["processed_pad"])
    close(process_images(images, processor, NONE), recorded["processed_none"])
    close(process_images(images[3:4], processor, PAD), recorded["processed_pad"][3:4])
    square = SimpleNamespace(image_aspect_ratio="square")  # how configs and --image_aspect_ratio spell None
    close(process_images(images, processor, square), recorded["processed_none"])


def test_image_files_equal_the_recorded_ones(golden, recorded, processor):
    for case in json.loads((golden / "images.json").read_text())["files"]:
        image = load_image(golden / case["file"])
        if case["mode"] == "I;16":
            continue
        expected = recorded[f"{case['key']}_rgb"]
        if case["file"].endswith(".jpg"):  # decoders differ by a level or two
            assert np.abs(np.asarray(image).astype(int) - expected).max() <= 3
            continue
        assert np.array_equal(np.asarray(image), expected), case["file"]
        close(process_images([image], processor, PAD)[0], recorded[f"{case['key']}_pad"])
        close(process_images([image], processor, NONE)[0], recorded[f"{case['key']}_none"])


def test_sixteen_bit_grey_is_scaled_where_the_reference_turns_it_white(golden, recorded):
    path = golden / "image_files" / "gray16.png"
    values = np.asarray(Image.open(path)).astype(int)
    assert np.array_equal(recorded["file_gray16_png_rgb"][..., 0], np.clip(values, 0, 255))  # the defect
    found = np.asarray(load_image(path)).astype(int)
    assert np.abs(found - np.rint(values / 257)[..., None]).max() <= 1


def test_images_of_one_to_three_pixels_are_preprocessed_correctly(golden, recorded, processor):
    compared = 0
    for case in json.loads((golden / "images.json").read_text())["odd_sizes"]:
        raw = recorded[case["raw"]]
        image = Image.fromarray(raw)
        found = process_images([image], processor, PAD if case["image_aspect_ratio"] else NONE)[0]
        assert found.shape == (3, 56, 56)
        square = expand2square(image, (122, 116, 104)) if case["image_aspect_ratio"] else image
        if "error" not in case and square.size[1] not in (1, 3):
            close(found, recorded[case["key"]])  # no size here that 4.31.0 takes for channels
            compared += 1
        upright = _by_hand(square, processor)
        close(found, upright)
    assert compared


def _by_hand(image, processor):
    """Shorter side to 56, centre crop, normalise: with Pillow and numpy alone."""
    width, height = image.size
    scale = 56 / min(width, height)
    size = (56, int(56 * height / width)) if width <= height else (int(56 * width / height), 56)
    assert scale > 0
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (resized.width - 56) // 2, (resized.height - 56) // 2
    pixels = np.asarray(resized.crop((left, top, left + 56, top + 56))).astype(np.float32) / 255
    return ((pixels - processor.image_mean) / processor.image_std).transpose(2, 0, 1).astype(np.float32)
