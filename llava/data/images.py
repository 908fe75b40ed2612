"""Image files to pixel tensors: validation, conversion to RGB, LLaVA's preprocessing.

Shapes: H, W height and width of the vision tower's input.
"""

import base64
import binascii
import hashlib
import io
import math
import os
import stat
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from visatb.array_cache import ArrayCache
from visatb.errors import InputError
from visatb.record_index import RecordIndex
from visatb.records import Record, image_names, name_of, resolve_image

if TYPE_CHECKING:  # not imported: the commands that look at image files need no torch
    import torch

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
# Of the square that `pad` makes, so of the longer side squared. 201 MB as RGB.
MAX_PIXELS = 8192 * 8192

_CHECK = "1"  # of image files: what passed another one is checked again


def load_image(path: str | os.PathLike, where: str | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame of an image file as RGB, upright.

    EXIF orientation is applied, 16-bit grey is scaled to 8 bits, transparency is dropped (as LLaVA does), palettes are
    looked up.

    Args:
        path: a regular file; `visatb.records.resolve_image` makes it of an `image` field.
        where: file and record, for messages.
        max_pixels: limit for the longer side squared.

    Raises:
        InputError: if the file is missing, not a regular file, not one of FORMATS, too large or damaged.
    """
    where = f"{where}: image {os.fspath(path)}" if where else f"image {os.fspath(path)}"
    try:
        # Opening a pipe would block, and a device has no end.
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        raise InputError(f"{where}: {error.strerror}. Check the path.") from None
    if not regular:
        raise InputError(f"{where}: not a regular file. Give an image file.")
    with open(path, "rb") as stream:
        return read_image(stream, where, max_pixels)


def read_image(stream: BinaryIO, where: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in a stream, as `load_image` reads files; `where` names it in messages."""

    def pixels(image: Image.Image) -> Image.Image:
        image.load()
        return _to_rgb(upright(image), where)

    return _read(stream, where, max_pixels, pixels)


def image_of(source: Path | bytes | Image.Image, where: str) -> Image.Image:
    """The image of a path, of a file's content, or as it is given, as `load_image` reads files."""
    if isinstance(source, bytes):
        return read_image(io.BytesIO(source), f"{where}: image")
    return source if isinstance(source, Image.Image) else load_image(source, where)


def load_image_from_base64(image: str | bytes) -> Image.Image:
    """The image in a base64 text, as `load_image` reads files."""
    try:
        content = base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError):
        raise InputError("image must be base64 text. Encode the file with base64.") from None
    return read_image(io.BytesIO(content), "image (base64)")


def resized(image: Image.Image, min_pixels: int | None, max_pixels: int | None) -> Image.Image:
    """An image of the same aspect ratio with at least and at most so many pixels (width x height)."""
    width, height = image.size
    scale = 1.0
    if max_pixels is not None and width * height > max_pixels:
        scale = math.sqrt(max_pixels / (width * height))
        size = (max(math.floor(width * scale), 1), max(math.floor(height * scale), 1))
    elif min_pixels is not None and width * height < min_pixels:
        scale = math.sqrt(min_pixels / (width * height))
        size = (math.ceil(width * scale), math.ceil(height * scale))
    return image if scale == 1.0 else image.resize(size, Image.Resampling.BICUBIC)


def check_image_files(records: Sequence[Record], image_folder: str | os.PathLike, source: str) -> None:
    """Refuse the first record with an image that is missing, not one of FORMATS by its header, or too large.

    Reading a header takes a fraction of a millisecond, so this is done before a model loads; damage further inside a
    file is found when it is decoded. Of the images of an index, those whose size and date are as they were when they
    were last checked are not opened again.

    Args:
        records: checked records, or their index.
        image_folder: folder that `image` fields are relative to.
        source: annotation file, for messages.
    """
    if isinstance(records, RecordIndex):
        names = hashlib.sha256(repr(records.images).encode()).hexdigest()
        key = {"format": _CHECK, "folder": os.path.realpath(image_folder), "pixels": MAX_PIXELS, "names": names}
        cache, named = ArrayCache(Path(source), ".images.npz", key), records.images
    else:
        named = {}
        for n, record in enumerate(records):
            for name in image_names(record):
                named.setdefault(name, n)
        cache, named = None, list(named.items())
    known = (cache and cache.load() or {}).get("stamps", np.zeros(0))
    stamps = np.array([_stamp(image_folder, name) for name, _ in named], np.int64).reshape(-1, 2)
    same = (known == stamps).all(axis=1) if known.shape == stamps.shape else np.zeros(len(named), bool)
    changed = np.flatnonzero(~same | (stamps[:, 0] < 0))
    for m in tqdm(changed, desc="checking images", unit=" images", delay=5):
        name, n = named[m]
        check_image_file(image_folder, name, f"{source}: {name_of(records[n], n)}")
    if cache is not None and len(changed):
        cache.save({"stamps": stamps})


def _stamp(folder: str | os.PathLike, name: str) -> tuple[int, int]:
    """Size and modification time of an image; -1 if it cannot be looked at."""
    try:
        found = os.stat(os.path.join(folder, name))
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns


def check_image_file(image_folder: str | os.PathLike, name: str, where: str, decode: bool = False) -> None:
    """Refuse an image that is missing, not one of FORMATS by its header, or too large.

    Args:
        image_folder: folder that `name` is relative to.
        name: the `image` field.
        where: file and record, for messages.
        decode: decode the whole image, to find damage further inside as well.

    Raises:
        InputError: naming file, record and path.
    """
    path = resolve_image(image_folder, name, where)
    if decode:
        load_image(path, where)
        return
    with open(path, "rb") as stream:
        _read(stream, f"{where}: image {path}", MAX_PIXELS, lambda image: None)


def expand2square(pil_img: Image.Image, background_color: tuple[int, int, int] | int) -> Image.Image:
    """The image centred on a square of that colour; the side of the square is the image's longer side."""
    width, height = pil_img.size
    if width == height:
        return pil_img
    side = max(width, height)
    square = Image.new(pil_img.mode, (side, side), background_color)
    square.paste(pil_img, ((side - width) // 2, (side - height) // 2))
    return square


def process_images(
    images: Sequence[Image.Image], image_processor: Any, model_cfg: Any
) -> "torch.Tensor | list[torch.Tensor]":
    """Pixel values of images.

    Args:
        images: RGB images.
        image_processor: a CLIPImageProcessor.
        model_cfg: has image_aspect_ratio: "pad" puts each image on a square of the processor's mean colour; anything
            else leaves it to the processor, which resizes the shorter side and crops the centre.

    Returns:
        float32 [n, 3, H, W]; a list of [3, H, W] if their sizes differ.
    """
    pad = getattr(model_cfg, "image_aspect_ratio", None) == "pad"
    pixels = [process_image(image, image_processor, pad) for image in images]
    if pixels and all(tensor.shape == pixels[0].shape for tensor in pixels):
        import torch

        return torch.stack(pixels)
    return pixels


def process_image(image: Image.Image, image_processor: Any, pad: bool) -> "torch.Tensor":
    """Pixel values float32 [3, H, W] of one RGB image, padded to a square first if `pad`."""
    if pad:
        image = expand2square(image, tuple(int(value * 255) for value in image_processor.image_mean))
    edge = (image_processor.size or {}).get("shortest_edge") if image_processor.do_resize else None
    if edge is None:
        return image_processor(image, return_tensors="pt")["pixel_values"][0]
    # transformers 4.31.0 takes an array of height 1 or 3 for channels-first and scrambles it. Resized here, by the
    # same rule and filter, no image reaches it that small.
    image = _resize_shorter_side(image, edge, image_processor.resample)
    if _is_plain_clip(image_processor) and _covers(image.size, image_processor):
        return _looked_up(image, image_processor)
    return image_processor(image, do_resize=False, return_tensors="pt")["pixel_values"][0]


def _is_plain_clip(image_processor: Any) -> bool:
    """Whether it is transformers' own CLIPImageProcessor with all of its steps."""
    kind = type(image_processor)
    is_own = kind.__name__ == "CLIPImageProcessor" and kind.__module__.startswith("transformers.")
    steps = ("do_center_crop", "do_rescale", "do_normalize")
    return is_own and all(getattr(image_processor, step, False) is True for step in steps)


def _covers(size: tuple[int, int], image_processor: Any) -> bool:
    """Whether an image is at least as large as the crop; transformers pads a smaller one."""
    crop = image_processor.crop_size
    return isinstance(crop, dict) and size[0] >= crop.get("width", math.inf) and size[1] >= crop.get("height", math.inf)


def _looked_up(image: Image.Image, image_processor: Any) -> "torch.Tensor":
    """The centre of a resized image as the processor gives it, in a twentieth of its time.

    A pixel's value depends on its byte alone: 256 values for each channel, by the processor's own arithmetic.
    """
    import torch

    crop, (width, height) = image_processor.crop_size, image.size
    top, left = (height - crop["height"]) // 2, (width - crop["width"]) // 2
    pixels_HWC = np.asarray(image)[top : top + crop["height"], left : left + crop["width"]]
    bytes_ = (np.arange(256, dtype=np.uint8) * image_processor.rescale_factor).astype(np.float32)
    values_CHW = np.empty((3, crop["height"], crop["width"]), np.float32)
    for channel, (mean, std) in enumerate(zip(image_processor.image_mean, image_processor.image_std, strict=True)):
        table = (bytes_ - np.float32(mean)) / np.float32(std)
        np.take(table, pixels_HWC[..., channel], out=values_CHW[channel], mode="clip")
    return torch.from_numpy(values_CHW)


def _resize_shorter_side(image: Image.Image, edge: int, resample: int) -> Image.Image:
    width, height = image.size
    shorter, longer = min(width, height), max(width, height)
    longer_side = int(edge * longer / shorter)
    size = (edge, longer_side) if width <= height else (longer_side, edge)
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(
            f"image of {width}x{height} would be resized to {size[0]}x{size[1]}. Use --image_aspect_ratio pad."
        )
    return image if size == image.size else image.resize(size, resample)


def _read(stream: BinaryIO, where: str, max_pixels: int, use: Callable[[Image.Image], Any]) -> Any:
    """What `use` makes of an opened image of allowed format and size, whose pixels are not decoded yet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit is stricter than Pillow's warning
            with Image.open(stream, formats=FORMATS) as image:
                _check_size(image.size, where, max_pixels)
                return use(image)
    except InputError:
        raise
    # Pillow's decoders raise many error types on damaged files; in all cases the file cannot be read.
    except Exception as error:
        reason = "not a " + ", ".join(FORMATS) + " file" if isinstance(error, Image.UnidentifiedImageError) else error
        raise InputError(f"{where}: cannot be read: {reason}. Replace the file.") from None


def _check_size(size: tuple[int, int], where: str, max_pixels: int) -> None:
    width, height = size
    if not width or not height:
        raise InputError(f"{where}: has no pixels ({width}x{height}). Replace the file.")
    if max(size) ** 2 > max_pixels:
        side = int(max_pixels**0.5)
        raise InputError(f"{where}: {width}x{height} is larger than {side} pixels a side. Make the image smaller.")


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; as it is where EXIF data cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:
        # The pixels are valid; only the EXIF data is not.
        warnings.warn(f"EXIF data not readable ({error}): taken as upright", stacklevel=2)
        return image


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    convert: Callable[[], Image.Image] = {"I": _from_integers, "F": _from_floats}.get(image.mode[0], _plain)
    return convert(image, where)


def _plain(image: Image.Image, where: str) -> Image.Image:
    return image.convert("RGB")


def _from_integers(image: Image.Image, where: str) -> Image.Image:
    """16-bit grey: Pillow's own conversion clips at 255, which turns nearly everything white."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"{where}: has 32-bit pixels without a known range. Save it with 8 or 16 bits.")
    return Image.fromarray(np.rint(values * (255 / 65535)).astype(np.uint8)).convert("RGB")


def _from_floats(image: Image.Image, where: str) -> Image.Image:
    raise InputError(f"{where}: has floating-point pixels without a known range. Save it with 8 or 16 bits.")
