"""Build annotation files from RefCOCO's own files: reference lists of regions, or boxes of phrases.

RefCOCO, RefCOCO+ and RefCOCOg (https://github.com/lichengunc/refer) come as `refs(unc).p`, a pickle of regions with
their sentences and splits, and `instances.json`, COCO's boxes and images. --kind caption asks for a description of
each region; the answer is the list of its sentences, as `cider_list` scores them. --kind grounding asks for the box of
each sentence. In the split `train`, captions are a record per sentence, because training takes one answer. Boxes are
relative to the image padded to a square.

The pickle is read as plain lists, dictionaries, texts and numbers; one that names a class or function is refused.
"""

import io
import pickle
import pickletools
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scripts_visatb.data.boxes import to_square
from scripts_visatb.data.stream import writing_records
from visatb.boxes import box_fault
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError, shown
from visatb.files import naming, read_json, refuse_unwritable
from visatb.records import IMAGE_TOKEN, Record, record_problems

DESCRIBE = "Provide a short description for this region."
LOCATE = "Provide the bounding box coordinate of the region this sentence describes."
KINDS = ("caption", "grounding")

# Opcodes that make plain values. None of them calls or imports anything, or allocates more than the file holds; those
# that store at an index are checked besides.
_PLAIN_NAMES = """
PROTO FRAME MARK STOP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT
STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_LIST EMPTY_DICT EMPTY_TUPLE
LIST DICT TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS
PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
"""
_PLAIN = frozenset(_PLAIN_NAMES.split())
_STORES = ("PUT", "BINPUT", "LONG_BINPUT")

_EXAMPLE = """example:
  python -m scripts_visatb.data.refcoco --refs 'refcoco/refs(unc).p' --instances refcoco/instances.json \\
      --split val --kind caption --task RefCOCO-caption --output playground/data/RefCOCO-caption_val.json
"""


def read_plain_pickle(path: Path) -> Any:
    """The value of a pickle that holds lists, tuples, dictionaries, texts, numbers, booleans and None alone.

    Raises:
        InputError: any other pickle, before a part of it is loaded; a damaged file.
    """
    with naming(path):
        content = path.read_bytes()
    remedy = "Use the file of the RefCOCO archive as it is."
    try:
        for n, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if opcode.name not in _PLAIN:
                what = f"{opcode.name} {shown(argument)}" if argument is not None else opcode.name
                raise InputError(f"{path}: must hold plain lists and texts, got the instruction {what}. {remedy}")
            if opcode.name in _STORES and not 0 <= argument <= n:
                raise InputError(f"{path}: stores a value at {argument}, beyond what the file holds. {remedy}")
        return pickle.Unpickler(io.BytesIO(content), encoding="latin1").load()
    except InputError:
        raise
    except Exception as error:  # damaged pickles raise errors of many types
        raise InputError(f"{path}: is not a pickle, or damaged ({shown(str(error))}). {remedy}") from None


class Instances:
    """Boxes and images of an `instances.json`.

    Raises:
        InputError: naming file and entry.
    """

    def __init__(self, path: Path):
        content = read_json(path)
        self.path = path
        self._images = self._by_id(content, "images")
        self._annotations = self._by_id(content, "annotations")

    def image(self, number: Any, where: str) -> dict[str, Any]:
        """The entry of an image, with file_name, width and height."""
        image = self._find(self._images, "image", number, where)
        valid = isinstance(image.get("file_name"), str) and image["file_name"]
        if not valid or not all(type(image.get(key)) is int and image[key] > 0 for key in ("width", "height")):
            raise InputError(f"{self.path}: image {number} must have file_name, width and height. Download it again.")
        return image

    def box(self, number: Any, where: str) -> list[float]:
        """The box [left, top, width, height] of an annotation, in pixels."""
        box = self._find(self._annotations, "annotation", number, where).get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
            raise InputError(f"{self.path}: annotation {number}: bbox must be 4 numbers, got {shown(box)}. Correct it.")
        return box

    def _by_id(self, content: Any, key: str) -> dict[int, dict[str, Any]]:
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(e, dict) and type(e.get("id")) is int for e in entries):
            raise InputError(f"{self.path}: {key} must be a list of entries with an id. Use RefCOCO's instances.json.")
        return {entry["id"]: entry for entry in entries}

    def _find(self, entries: dict[int, dict[str, Any]], kind: str, number: Any, where: str) -> dict[str, Any]:
        if type(number) is not int or number not in entries:
            raise InputError(f"{where}: {self.path} has no {kind} {shown(number)}. Use the two files of one archive.")
        return entries[number]


def regions_of(refs: Any, splits: list[str], source: Path) -> Iterator[tuple[dict[str, Any], list[str], str]]:
    """The regions of the splits: each with its different sentences and its name for messages.

    Raises:
        InputError: an invalid region; no region of a split.
    """
    if not isinstance(refs, list | tuple):
        raise InputError(f"{source}: must hold a list of regions, got {shown(refs)}. Use RefCOCO's refs file.")
    found = Counter(ref.get("split") if isinstance(ref, dict) else None for ref in refs if _has_split(ref))
    for split in splits:
        if split not in found:
            there = ", ".join(sorted(found)) or "none"
            raise InputError(f"{source}: no region of the split {split!r}; there are {there}. Choose one of them.")
    for n, ref in enumerate(refs):
        where = f"{source}: refs[{n}]"
        if not _has_split(ref):
            raise InputError(f"{where}: must have a split and sentences, got {shown(ref)}. Use RefCOCO's refs file.")
        if ref["split"] in splits:
            yield ref, _sentences(ref, where), where


def records_of(ref: dict[str, Any], sentences: list[str], where: str, instances: Instances, options: Namespace) -> list:
    """The records of one region.

    Args:
        ref: of the refs file.
        sentences: of the region.
        where: file and region, for messages.
        instances: its image and box.
        options: kind, task, image (template of the `image` field) and digits.

    Raises:
        InputError: naming the region and what it lacks.
    """
    image = instances.image(ref.get("image_id"), where)
    box = _text_of_box(instances.box(ref.get("ann_id"), where), image, options.digits, where)
    name = options.image.format(file_name=image["file_name"], image_id=ref["image_id"])
    common = {"image": name, "task": options.task}
    number = f"{options.task}-{ref.get('ref_id', ref['ann_id'])}"
    if options.kind == "grounding":
        asked = [(f"{number}-{n}", f"{text}\n{LOCATE}", box) for n, text in enumerate(sentences)]
    elif ref["split"] == "train":
        asked = [(f"{number}-{n}", f"{box}\n{DESCRIBE}", text) for n, text in enumerate(sentences)]
    else:
        asked = [(number, f"{box}\n{DESCRIBE}", sentences)]
    return [{"id": key, **common, "conversations": _turns(question, answer)} for key, question, answer in asked]


def convert(options: Namespace) -> tuple[int, int]:
    """Write the annotation file; returns the numbers of regions and records."""
    refs = read_plain_pickle(options.refs)
    instances = Instances(options.instances)
    regions, seen = 0, set()
    with writing_records(options.output) as writer:
        for ref, sentences, where in tqdm(regions_of(refs, options.split, options.refs), desc="regions", unit=""):
            regions += 1
            for record in records_of(ref, sentences, where, instances, options):
                _check(record, where, seen)
                writer.write(record)
    return regions, writer.count


def _check(record: Record, where: str, seen: set) -> None:
    if record["id"] in seen:
        raise InputError(f"{where}: the region occurs twice ({record['id']}). Use RefCOCO's refs file.")
    training = isinstance(record["conversations"][1]["value"], str)
    for _, problem in record_problems(record, where, seen, training=training):
        raise problem


def _turns(question: str, answer: str | list[str]) -> list[dict[str, Any]]:
    return [{"from": "human", "value": f"{IMAGE_TOKEN}\n{question}"}, {"from": "gpt", "value": answer}]


def _text_of_box(box: list[float], image: dict[str, Any], digits: int, where: str) -> str:
    try:
        square = to_square(tuple(box), image["width"], image["height"], "pixel-xywh")
    except InputError as error:
        raise InputError(f"{where}: box {box} {error}. Use the two files of one archive.") from None
    rounded = tuple(round(value, digits) for value in square)
    if box_fault(rounded) is not None:
        raise InputError(f"{where}: box {box} is empty at {digits} digits. Raise --digits.")
    return "[" + ", ".join(map(str, rounded)) + "]"


def _has_split(ref: Any) -> bool:
    return isinstance(ref, dict) and isinstance(ref.get("split"), str) and isinstance(ref.get("sentences"), list)


def _sentences(ref: dict[str, Any], where: str) -> list[str]:
    texts = [sentence.get("sent") if isinstance(sentence, dict) else None for sentence in ref["sentences"]]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"{where}: sentences must each have a text `sent`, got {shown(ref['sentences'])}. Correct it.")
    return list(dict.fromkeys(text.strip() for text in texts))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parse() -> Namespace:
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    add = parser.add_argument
    add("--refs", required=True, type=Path, help="refs(unc).p, refs(google).p or refs(umd).p")
    add("--instances", required=True, type=Path, help="instances.json of the same archive")
    add("--split", required=True, nargs="+", help="split(s) of the refs file: train, val, testA, testB, test")
    add("--kind", required=True, choices=KINDS, help="what is asked for: a description of a box, or a box")
    add("--task", required=True, help="task of the records")
    add("--output", required=True, type=Path, help="annotation file to write")
    image = (
        "the `image` field; {file_name} is that of instances.json, {image_id} its number ({image_id:012d} with zeros)"
    )
    add("--image", default="coco/train2014/{file_name}", help=image)
    add("--digits", type=int, default=2, help="decimal places of boxes; LLaVA's data has 2")
    return parser.parse_args()


def main() -> None:
    """Command line."""
    options = _parse()
    if not 1 <= options.digits <= 9:
        raise InputError(f"--digits must be 1 to 9, got {options.digits}. Choose another number.")
    try:
        options.image.format(file_name="name", image_id=1)
    except (KeyError, IndexError, ValueError, AttributeError):
        raise InputError(f"--image has {{file_name}} and {{image_id}} only, got {shown(options.image)}.") from None
    refuse_unwritable([options.output], [options.refs, options.instances])
    regions, records = convert(options)
    print(f"{records} records of {regions} regions  {options.output}")


if __name__ == "__main__":
    run(main)
