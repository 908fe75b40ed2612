"""Convert M3IT (JSON Lines with images as base64) to an annotation file and an image folder.

Rows have `instruction`, `inputs`, `outputs` and `image_base64_str` (or `image_str`), a string or a list of strings, as
the loading script of M3IT yields them. The question is the instruction with the inputs on the next line. Images keep
their bytes and are named by their SHA-256, so that an image used by many rows is stored once and a repeated run keeps
existing files. Each image is decoded first, with the same limits as in training.
"""

import base64
import binascii
import hashlib
import io
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from llava.data.images import FORMATS, read_image
from scripts_visatb.data.stream import file_sizes, leave_out, writing_records
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError, shown
from visatb.files import refuse_unwritable, replacing
from visatb.record_stream import stream_records
from visatb.records import IMAGE_TOKEN, Record, omitted_file, record_problems

IMAGE_KEYS = ("image_base64_str", "image_str")
SUFFIXES = {name: {"JPEG": "jpg", "TIFF": "tif"}.get(name, name.lower()) for name in FORMATS}

_EXAMPLE = """example:
  python -m scripts_visatb.data.m3it --input M3IT/data/vqa/vqa-v2/train.jsonl --task vqa-v2 \\
      --output playground/data/m3it/vqa-v2.json --image-folder playground/data/m3it/images
"""


def convert(row: Record, task: str, n: int, image_folder: Path, where: str, references: bool = False) -> Record:
    """Convert one row to a record and store its images in the image folder.

    Args:
        row: fields of M3IT.
        task: name for the `task` field, the ids and the subfolder of the images.
        n: position of the row, for its id.
        image_folder: folder that the `image` field is relative to.
        where: file and row, for messages.
        references: write the answer as a list, for an evaluation with reference lists.

    Raises:
        InputError: naming the row and the field.
    """
    question = "\n".join(filter(None, (_text(row, key, where).strip() for key in ("instruction", "inputs"))))
    answer = _answer(row, where, references)
    images = [store_image(text, image_folder, task, where) for text in _images(row, where)]
    fields: dict[str, Any] = {"image": images[0] if len(images) == 1 else images} if images else {}
    turns = [
        {"from": "human", "value": f"{IMAGE_TOKEN}\n" * len(images) + question},
        {"from": "gpt", "value": answer},
    ]
    record = {"id": f"{task}-{n}"} | fields | {"task": task, "conversations": turns}
    # Rows with several references are for evaluation; a row with one may be trained on, so it must be valid for
    # training.
    for _, problem in record_problems(record, where, set(), training=isinstance(answer, str)):
        raise problem
    return record


def store_image(text: str, image_folder: Path, subfolder: str, where: str) -> str:
    """Decode a base64 image and write it unless it exists; returns its path relative to the image folder.

    Raises:
        InputError: invalid base64, a format that training does not support, too large, damaged.
    """
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{where}: the image must be base64 text. Export the file again.") from None
    name = hashlib.sha256(content).hexdigest()[:32]
    folder = Path(subfolder) / name[:2]
    for suffix in SUFFIXES.values():
        if (image_folder / folder / f"{name}.{suffix}").is_file():
            return str(folder / f"{name}.{suffix}")
    read_image(io.BytesIO(content), f"{where}: the image")
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        suffix = SUFFIXES[image.format]
    with replacing(image_folder / folder / f"{name}.{suffix}") as part:
        part.write_bytes(content)
    return str(folder / f"{name}.{suffix}")


def convert_files(
    sources: list[Path],
    task: str,
    output: Path,
    image_folder: Path,
    omit_broken: bool = False,
    references: bool = False,
) -> tuple[int, int, int]:
    """Convert files in order into one annotation file.

    Returns:
        number of rows converted, of those with a list of references, and of rows omitted.

    Raises:
        InputError: the first invalid row, unless `omit_broken` omits such rows and lists them beside the output.
    """
    done = several = omitted = 0
    with ExitStack() as stack:
        writer = stack.enter_context(writing_records(output))
        listing = stack.enter_context(writing_records(omitted_file(output))) if omit_broken else None
        bar = stack.enter_context(tqdm(total=file_sizes(sources), desc="converting", unit="B", unit_scale=True))
        for n, (row, where) in enumerate(_rows(sources, bar)):
            try:
                record = convert(row, task, n, image_folder, where, references)
                writer.write(record)
                done += 1
                several += isinstance(record["conversations"][1]["value"], list)
            except InputError as problem:
                leave_out(problem, "", n, {"id": f"{task}-{n}"}, listing)
                omitted += 1
        if not done:
            raise InputError(f"{sources[0]}: no row is valid, see {omitted_file(output)}. Correct the file.")
    return done, several, omitted


def _rows(sources: list[Path], bar: tqdm) -> Iterator[tuple[Record, str]]:
    for source in sources:
        for n, row in enumerate(stream_records(source, bar.update)):
            yield row, f"{source}: row {n}"


def _text(row: Record, key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or (not value.strip() and key != "inputs"):
        got = shown(value) if key in row else "no such field"
        raise InputError(f"{where}: {key} must be a text, got {got}. Correct the row.")
    return value


def _answer(row: Record, where: str, references: bool) -> str | list[str]:
    """The answer, or several different references: a list of one is an answer, because training accepts no list."""
    value = row.get("outputs")
    if not (isinstance(value, list) and value and all(isinstance(text, str) for text in value)):
        text = _text(row, "outputs", where)
        return [text] if references else text
    different = list(dict.fromkeys(text for text in value if text.strip()))
    if not different:
        _text({"outputs": ""}, "outputs", where)
    return different if references or len(different) > 1 else different[0]


def _images(row: Record, where: str) -> list[str]:
    value = next((row[key] for key in IMAGE_KEYS if row.get(key) is not None), [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise InputError(f"{where}: {IMAGE_KEYS[0]} must be a text or a list of texts. Correct the row.")
    return texts


def _parse() -> Namespace:
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("--input", required=True, nargs="+", type=Path, help="M3IT file(s), .jsonl or a JSON list")
    parser.add_argument("--task", required=True, help="task of the records")
    parser.add_argument("--output", required=True, type=Path, help="annotation file to write")
    parser.add_argument("--image-folder", required=True, type=Path, help="folder for the images")
    parser.add_argument(
        "--references", action="store_true", help="write answers as lists, as eval/caption_list.py reads them"
    )
    parser.add_argument("--omit-broken", action="store_true", help="omit and list invalid rows")
    return parser.parse_args()


def main() -> None:
    """Command line."""
    args = _parse()
    if not args.task or not all(ch.isalnum() or ch in "-_." for ch in args.task) or args.task.startswith("."):
        raise InputError(f"--task must be letters, digits, '-', '.', '_', got {args.task!r}. Choose another name.")
    listing = omitted_file(args.output) if args.omit_broken else None
    refuse_unwritable([args.output, listing], args.input)
    done, several, omitted = convert_files(
        args.input, args.task, args.output, args.image_folder, args.omit_broken, args.references
    )
    print(f"{done} records  {args.output}")
    if several and not args.references:
        print(f"{several} of them have several references: usable for evaluation only, training takes one answer")
    if omitted:
        print(f"{omitted} invalid rows omitted: {listing}")


if __name__ == "__main__":
    run(main)
