"""Image files: upright RGB or one clear line; never a scrambled, white or zero image."""

import io
import os
import shutil
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from llava.data.images import check_image_files, load_image, load_image_from_base64, process_images
from llava.mm_utils import expand2square
from visatb.errors import InputError

PAD, SQUARE = SimpleNamespace(image_aspect_ratio="pad"), SimpleNamespace(image_aspect_ratio="square")
CORNERS = np.zeros((20, 30, 3), np.uint8)
CORNERS[:5, :5] = (255, 0, 0)
CORNERS[-5:, -5:] = (0, 0, 255)


def png_of_size(width, height):
    """A PNG of a few bytes that claims a size."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(CORNERS).save(path, exif=exif)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image.convert("RGB"))
    assert np.array_equal(np.asarray(load_image(path)), np.asarray(expected))


def test_every_mode_becomes_rgb(tmp_path):
    colour = Image.fromarray(CORNERS)
    for mode in ("L", "LA", "P", "RGBA", "1"):
        path = tmp_path / f"{mode}.png"
        colour.convert(mode).save(path)
        image = load_image(path)
        assert image.mode == "RGB" and image.size == (30, 20)
        assert np.array_equal(np.asarray(image), np.asarray(colour.convert(mode).convert("RGB")))


def test_transparency_is_dropped_and_the_colours_stay(tmp_path):
    """Of an alpha channel, a palette with alpha per entry, one with a transparent entry, a transparent colour."""
    colour = Image.fromarray(CORNERS)
    alpha = Image.fromarray(np.tile(np.arange(30, dtype=np.uint8) * 8, (20, 1)))
    files = {"rgba.png": {}, "p_bytes.png": {"transparency": bytes(range(256))}, "p_entry.gif": {"transparency": 0}}
    for name, options in (files | {"colour.png": {"transparency": (255, 0, 0)}}).items():
        image = colour.quantize(16) if name.startswith("p_") else colour.copy()
        if name == "rgba.png":
            image.putalpha(alpha)
        image.save(tmp_path / name, **options)
        assert np.array_equal(np.asarray(load_image(tmp_path / name)), CORNERS), name
    grey = colour.convert("L")
    Image.merge("LA", (grey, alpha)).save(tmp_path / "la.png")
    assert np.array_equal(np.asarray(load_image(tmp_path / "la.png")), np.asarray(grey.convert("RGB")))


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_ink_colours_become_light_ones(tmp_path, suffix):
    ink = Image.fromarray(CORNERS).convert("CMYK")
    path = tmp_path / f"x.{suffix}"
    ink.save(path, **({"quality": 100, "subsampling": 0} if suffix == "jpg" else {}))
    found = np.asarray(load_image(path)).astype(int)
    assert np.abs(found - CORNERS).max() <= (12 if suffix == "jpg" else 0), "not inverted, not scrambled"


def test_pad_square_and_none_differ_as_they_should(processor):
    """ "square" and None both leave the shape to the processor, which cuts the sides off; pad keeps them."""
    image = Image.fromarray(CORNERS)
    none, square, pad = (
        process_images([image], processor, SimpleNamespace(image_aspect_ratio=ratio))
        for ratio in (None, "square", "pad")
    )
    assert torch.equal(none, square) and none.shape == pad.shape == (1, 3, 56, 56)
    assert torch.equal(process_images([image], processor, SimpleNamespace()), none)
    torch.testing.assert_close(none[0], processor(image, return_tensors="pt")["pixel_values"][0])
    padded = expand2square(image, tuple(int(value * 255) for value in processor.image_mean))
    torch.testing.assert_close(pad[0], processor(padded, return_tensors="pt")["pixel_values"][0])
    assert process_images([], processor, PAD) == []


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_and_not_turned_white(tmp_path, suffix):
    values = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(values).save(path)
    found = np.asarray(load_image(path)).astype(int)
    assert np.abs(found - (values.astype(int) / 257)[..., None]).max() <= 0.5
    assert found.min() == 0 and found.max() == 255


def test_pixels_without_a_known_range_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "f.tiff")
    Image.fromarray(np.full((4, 4), 1 << 20, np.int32)).save(tmp_path / "i.tiff")
    for name in ("f.tiff", "i.tiff"):
        with pytest.raises(InputError, match="known range"):
            load_image(tmp_path / name)


def bad_files(folder):
    good = io.BytesIO()
    Image.fromarray(CORNERS).save(good, "PNG")
    eps = io.BytesIO()
    Image.fromarray(CORNERS).save(eps, "EPS")
    contents = {
        "empty.png": b"",
        "text.jpg": b"this is not an image",
        "cut.png": good.getvalue()[: len(good.getvalue()) // 2],
        "eps.jpg": eps.getvalue(),
        "bomb.png": png_of_size(60000, 60000),
        "thin.png": png_of_size(100000, 1),
        "zero.png": png_of_size(0, 5),
        "huge.gif": b"GIF89a" + struct.pack("<HH", 65000, 65000) + b"\0\0\0;",
        "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    return [*contents, "pipe.png", "folder.png", "absent.png"]


def test_bad_files_are_refused_in_one_line_with_record_and_path(tmp_path):
    for name in bad_files(tmp_path):
        with pytest.raises(InputError) as caught:
            load_image(tmp_path / name, "train.json: record 3")
        message = str(caught.value)
        assert message.startswith("train.json: record 3: image ") and name in message and "\n" not in message, name


def test_the_pixel_limit_holds_for_the_padded_square(tmp_path):
    Image.new("RGB", (100, 2)).save(tmp_path / "x.png")
    with pytest.raises(InputError, match="larger than 50"):
        load_image(tmp_path / "x.png", max_pixels=2500)
    assert load_image(tmp_path / "x.png", max_pixels=10000).size == (100, 2)


@pytest.mark.parametrize("config", [PAD, SQUARE])
@pytest.mark.parametrize("size", [(w, h) for w in (1, 2, 3, 4) for h in (1, 2, 3, 4)] + [(1, 90), (90, 3), (3, 90)])
def test_tiny_images_are_not_taken_for_channels(processor, config, size):
    draw = np.random.default_rng(0)
    image = Image.fromarray(draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    found = process_images([image], processor, config)[0]
    # The same picture, enlarged beforehand: transformers can take its shape for nothing else.
    square = expand2square(image, (122, 116, 104)) if config is PAD else image
    shorter = min(square.size)
    larger = square.resize((int(56 * square.width / shorter), int(56 * square.height / shorter)), processor.resample)
    torch.testing.assert_close(found, processor(larger, return_tensors="pt")["pixel_values"][0], atol=1e-6, rtol=0)


def test_a_long_strip_is_refused_before_it_fills_the_memory(processor):
    with pytest.raises(InputError, match="pad"):
        process_images([Image.new("L", (8000, 1)).convert("RGB")], SimpleNamespace(**_big(processor)), SQUARE)


def _big(processor):
    return {
        "size": {"shortest_edge": 336},
        "do_resize": True,
        "resample": processor.resample,
        "image_mean": processor.image_mean,
    }


def test_expand2square_centres_the_image():
    square = np.asarray(expand2square(Image.fromarray(CORNERS), (1, 2, 3)))
    assert square.shape == (30, 30, 3)
    assert (
        np.array_equal(square[5:25], CORNERS) and (square[:5] == (1, 2, 3)).all() and (square[25:] == (1, 2, 3)).all()
    )


def test_base64_images(tmp_path):
    import base64

    content = io.BytesIO()
    Image.fromarray(CORNERS).save(content, "PNG")
    image = load_image_from_base64(base64.b64encode(content.getvalue()))
    assert np.array_equal(np.asarray(image), CORNERS)
    for bad in ("not base64!", base64.b64encode(b"no image").decode()):
        with pytest.raises(InputError):
            load_image_from_base64(bad)


def test_missing_and_unreadable_image_files_are_found_before_training(tmp_path, records, tiny_dataset):
    folder = tmp_path / "images"
    shutil.copytree(tiny_dataset.parent / "images", folder)
    check_image_files(records, folder, "train.json")
    (folder / "empty.png").touch()
    for name in ("nothing.png", "empty.png"):
        records[3] = records[3] | {"image": name}
        with pytest.raises(InputError, match=rf"train.json: record 3 .*{name}"):
            check_image_files(records, folder, "train.json")
