"""Reads and tests a vision tower's preprocessor_config.json: with a broken processor every image would seem broken."""

from pathlib import Path

from PIL import Image
from transformers import CLIPImageProcessor

from llava.data.images import process_image
from visatb.cli import one_line
from visatb.errors import InputError
from visatb.files import read_json
from visatb.value_rules import FLAG, NULL, TEXT, Rule, check, list_of, number, object_of, refuse_attributes, whole

_RULES = {
    "do_resize": FLAG,
    "do_center_crop": FLAG,
    "do_rescale": FLAG,
    "do_normalize": FLAG,
    "do_convert_rgb": FLAG,
    "resample": whole(0, 5),
    "rescale_factor": number(1e-9, 1e9),
    # Padding takes the mean as a colour, so one number will not do.
    "image_mean": list_of(number(0, 1), 3),
    "image_std": list_of(Rule("a number above 0", number(1e-9, 1e9).holds), 3),
    "image_processor_type": TEXT | NULL,
    "feature_extractor_type": TEXT | NULL,
}


def read_image_processor(file: str | Path, side: int) -> CLIPImageProcessor:
    """The image processor of a preprocessor_config.json.

    Args:
        file: it.
        side: height and width of the pixels that the vision tower takes.

    Raises:
        InputError: naming the file, and the key where one is at fault.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: must be a JSON object. Copy the vision tower again.")
    crop, sides = whole(side, side), whole(1, 4 * side)  # larger values would exhaust the memory
    sizes = {"crop_size": crop | object_of(crop), "size": sides | object_of(sides)}
    check(content, _RULES | sizes, file)
    refuse_attributes(content, CLIPImageProcessor, file)
    if content.get("do_normalize", True) and not content.get("do_rescale", True):
        # transformers 4.31.0 would round mean and deviation to the whole numbers that the pixels are: to 0.
        raise InputError(f"{file}: do_rescale must be true where do_normalize is. Copy the vision tower again.")
    try:
        processor = CLIPImageProcessor.from_dict(content)
        shape = tuple(process_image(Image.new("RGB", (side, side)), processor, pad=True).shape)
    except Exception as error:  # in all cases no image can be processed
        raise InputError(f"{file}: cannot be used: {one_line(error)[:200]} Copy the vision tower again.") from None
    if shape != (3, side, side):
        raise InputError(
            f"{file}: size and crop_size make images of {shape}, the vision tower takes {(3, side, side)}. "
            "Copy the vision tower again."
        )
    return processor
