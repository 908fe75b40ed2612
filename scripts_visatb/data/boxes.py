"""Convert bounding boxes in questions and answers to LLaVA's convention.

The convention is `[x1, y1, x2, y2]` in [0, 1] of the image padded to a square. A box is four comma-separated numbers in
square brackets; --from gives their current meaning. Boxes in other notations are listed and end the command. Image
sizes are read from the headers, with EXIF orientation applied.
"""

import re
from argparse import Namespace
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from llava.data.images import FORMATS, check_image_file
from scripts_visatb.data.stream import file_sizes, writing_records
from visatb.boxes import Box, box_fault
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import refuse_unwritable
from visatb.record_stream import stream_records
from visatb.records import Record, image_names, name_of, record_problems, resolve_image

# pixel: of the image. image: in [0, 1] of the image's own width and height. xywh: left, top, width, height (COCO).
NOTATIONS = ("pixel-xyxy", "pixel-xywh", "image-xyxy", "image-xywh")
TURNS = {"questions": "human", "answers": "gpt"}

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_BOX = re.compile(rf"\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]")
# `(3, 4), (20, 20)`, `[3 4 20 20]`, `<box>3,4,20,20</box>`, `<loc_3><loc_4><loc_20><loc_20>`.
_OTHER_BOX = re.compile(
    rf"[\[({{<>|]\s*{_NUMBER}(?:[\s,;|()\[\]]+{_NUMBER}){{3}}\s*[\])}}<>|]|(?:<[a-z_]*\d+>\s*){{4}}", re.IGNORECASE
)
_LISTED = 5  # boxes in other notations that the message shows
_EXIF_ORIENTATION = 0x0112

_EXAMPLE = """example:
  python -m scripts_visatb.data.boxes --input refcoco_pixels.json --output refcoco.json \\
      --image-folder playground/data --from pixel-xywh
"""


def to_square(box: Box, width: int, height: int, notation: str) -> Box:
    """A box in [0, 1] of the image padded to a square (as `expand2square` pads).

    Args:
        box: four numbers.
        width, height: of the image, in pixels.
        notation: one of NOTATIONS.

    Raises:
        InputError: a box that is empty or extends beyond the image by more than a pixel.
    """
    x1, y1, x2, y2 = box
    if notation.startswith("image"):
        x1, y1, x2, y2 = x1 * width, y1 * height, x2 * width, y2 * height
    if notation.endswith("xywh"):
        x2, y2 = x1 + x2, y1 + y2
    if min(x1, y1) < -1 or x2 > width + 1 or y2 > height + 1:
        raise InputError(f"lies outside the image of {width}x{height} pixels")
    if not (x1 < x2 and y1 < y2):
        raise InputError("is swapped or empty")
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    x1, x2 = (min(max(x, 0), width) + left for x in (x1, x2))
    y1, y2 = (min(max(y, 0), height) + top for y in (y1, y2))
    return x1 / side, y1 / side, x2 / side, y2 / side


def convert_text(text: str, width: int, height: int, notation: str, digits: int) -> tuple[str, int]:
    """The text with every box converted, and the number of boxes.

    Args:
        text: of a turn.
        width, height, notation: see `to_square`.
        digits: decimal places, without trailing zeros, as in LLaVA's data.

    Raises:
        InputError: naming the box.
    """

    def replace(match: re.Match) -> str:
        box = tuple(map(float, match.groups()))
        if notation.startswith("pixel") and "." in match.group() and all(0 <= number <= 1 for number in box):
            fitting = " or ".join(_fitting(box, width, height)) or "image-xyxy"
            rule = f"is already normalised. If it is relative to the unpadded image, use --from {fitting}"
            raise InputError(f"box {match.group()} {rule}; boxes relative to the padded square need no conversion.")
        try:
            rounded = tuple(round(number, digits) for number in to_square(box, width, height, notation))
        except InputError as error:
            raise InputError(f"box {match.group()} {error}. {_advice(box, width, height)}.") from None
        if box_fault(rounded) is not None:
            raise InputError(f"box {match.group()} is empty at {digits} digits. Raise --digits.")
        return "[" + ", ".join(map(str, rounded)) + "]"

    return _BOX.subn(replace, text)


def other_boxes(text: str) -> list[str]:
    """Boxes in other notations, which are not converted."""
    return [match.group().strip() for match in _OTHER_BOX.finditer(_BOX.sub("", text))]


def _fitting(box: Box, width: int, height: int) -> list[str]:
    """The notations in which the box lies inside the image."""
    found = []
    for notation in NOTATIONS:
        is_normalised = all(0 <= number <= 1 for number in box)
        with suppress(InputError):
            to_square(box, width, height, notation)
            found += [notation] if notation.startswith("image") == is_normalised else []
    return found


def _advice(box: Box, width: int, height: int) -> str:
    if fitting := _fitting(box, width, height):
        return f"--from {' or '.join(fitting)} fits it: use that for the whole file, or correct the box"
    return "no --from fits it: correct the box; divide coordinates in 0..1000 by 1000 first"


def image_size(image_folder: Path, name: str, where: str) -> tuple[int, int]:
    """Upright width and height, from the header.

    Raises:
        InputError: an image that training would refuse for its path, format or size.
    """
    check_image_file(image_folder, name, where)
    with Image.open(resolve_image(image_folder, name, where), formats=FORMATS) as image:
        width, height = image.size
        with suppress(Exception):  # Pillow raises many error types on damaged EXIF; the image is then taken as upright
            if image.getexif().get(_EXIF_ORIENTATION) in (5, 6, 7, 8):
                return height, width
    return width, height


def convert_record(
    record: Record, where: str, image_folder: Path, notation: str, digits: int, roles: set[str]
) -> tuple[Record, int, list[str]]:
    """A checked record with its boxes converted, their number, and boxes in other notations with their location.

    Raises:
        InputError: naming record, turn and box; a box in a record without exactly one image.
    """
    size = None
    turns, boxes, others = [], 0, []
    for n, turn in enumerate(record["conversations"]):
        texts = turn["value"] if isinstance(turn["value"], list) else [turn["value"]]
        if turn["from"] in roles:
            others += [f"{where}: conversations[{n}] {box!r}" for text in texts for box in other_boxes(text)]
        if turn["from"] in roles and any(map(_BOX.search, texts)):
            size = size or _size_of_its_image(record, where, image_folder)
            try:
                results = [convert_text(text, *size, notation, digits) for text in texts]
            except InputError as error:
                raise InputError(f"{where}: conversations[{n}]: {error}") from None
            boxes += sum(count for _, count in results)
            converted = [text for text, _ in results]
            turn = turn | {"value": converted if isinstance(turn["value"], list) else converted[0]}
        turns.append(turn)
    return record | {"conversations": turns}, boxes, others


def _size_of_its_image(record: Record, where: str, image_folder: Path) -> tuple[int, int]:
    names = image_names(record)
    if len(names) != 1:
        raise InputError(
            f"{where}: a box with {len(names)} images, expected one. Correct the record, or select tasks with --tasks."
        )
    return image_size(image_folder, names[0], where)


def convert_file(args: Namespace) -> tuple[Counter, Counter, int]:
    """Convert the input file; returns records and boxes by task (None without one), and boxes in other notations."""
    roles = {TURNS[name] for name in args.where}
    records, boxes, left, examples = Counter(), Counter(), 0, []
    with ExitStack() as stack:
        writer = stack.enter_context(writing_records(args.output))
        bar = stack.enter_context(tqdm(total=file_sizes([args.input]), desc="converting", unit="B", unit_scale=True))
        for n, record in enumerate(stream_records(args.input, bar.update)):
            name, task = name_of(record, n), record.get("task")
            where = f"{args.input}: {name}"
            # Records with references instead of answers are for evaluation, all others may be used for training.
            for _, problem in record_problems(record, where, set(), training=not _has_references(record)):
                raise problem
            if not args.tasks or task in args.tasks:
                try:
                    record, count, others = convert_record(
                        record, name, args.image_folder, args.notation, args.digits, roles
                    )
                except InputError as error:
                    raise InputError(f"{args.input}: {error}") from None
                records[task] += 1
                boxes[task] += count
                left += len(others)
                examples += others[: _LISTED - len(examples)]
            writer.write(record)
        if left and not args.leave_others:
            more = f"; and {left - len(examples)} more" if left > len(examples) else ""
            rule = f"{left} in another notation than [x, y, x, y]: {'; '.join(examples)}{more}"
            raise InputError(f"{args.input}: {rule}. Rewrite them, or keep them unchanged with --leave-others.")
        if not boxes.total():
            raise InputError(f"{args.input}: no box [x, y, x, y] found. Check the file, --tasks and --where.")
    return records, boxes, left


def _has_references(record: Record) -> bool:
    turns = record.get("conversations")
    return isinstance(turns, list) and any(isinstance(t, dict) and isinstance(t.get("value"), list) for t in turns)


def _parse() -> Namespace:
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("--input", required=True, type=Path, help="annotation file, .json or .jsonl")
    parser.add_argument("--output", required=True, type=Path, help="annotation file to write")
    parser.add_argument("--image-folder", required=True, type=Path, help="folder that `image` fields are relative to")
    parser.add_argument(
        "--from",
        dest="notation",
        required=True,
        choices=NOTATIONS,
        help="current notation: pixels or [0, 1] of the unpadded image; corners, or corner and size",
    )
    parser.add_argument("--where", nargs="+", choices=TURNS, default=list(TURNS), help="turns to convert boxes in")
    parser.add_argument("--tasks", nargs="+", default=[], help="tasks to convert; default: all")
    parser.add_argument("--leave-others", action="store_true", help="keep boxes in other notations unchanged")
    parser.add_argument("--digits", type=int, default=2, help="decimal places; LLaVA's data has 2")
    return parser.parse_args()


def main() -> None:
    """Command line."""
    args = _parse()
    if not 1 <= args.digits <= 9:
        raise InputError(f"--digits must be 1 to 9, got {args.digits}. Choose another number.")
    refuse_unwritable([args.output], [args.input])
    records, boxes, left = convert_file(args)
    for task, count in records.items():
        print(f"{boxes[task]:>8} boxes in {count} records{f' of {task}' if task is not None else ''}")
    if left:
        print(f"{left:>8} in other notations were kept unchanged")


if __name__ == "__main__":
    run(main)
