"""Annotation and answer records: reading and checking (docs/data.md describes the format).

    {"id": "...", "image": "folder/file.jpg", "task": "VQAv2",
     "conversations": [{"from": "human", "value": "<image>\\nWhat ...?"}, {"from": "gpt", "value": "Two."}, ...]}

`image` may be absent (text-only sample) or a list. A val/test record of reference-list captioning has a list of
strings at `conversations[1].value`. Answer files add `conversations[1].generative_value` and `generator`.
"""

import gc
import os
import re
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from visatb.errors import InputError, shown
from visatb.foreign_keys import foreign_key
from visatb.record_stream import Record, name_of, stream_records

IMAGE_TOKEN = "<image>"
DUPLICATE_ID = "duplicate id"
FOREIGN_KEY = "key of another format"
ROLES = ("human", "gpt")
BAD_IMAGE_CHOICES = ("fail", "skip", "replace")  # of --bad_image; replace is the old name of skip
BAD_IMAGE_SHARE = 0.01  # maximum share of records with unreadable images among those with images
_NO_PATH = re.compile(r"data:|[A-Za-z][A-Za-z0-9+.-]*://")  # a data URI or a web address
_LONGEST_PATH = 4096  # anything longer is probably a base64 image
_TAKE_TURNS = "Let human and gpt take turns."
_ROLE_ADVICE = {
    "system": "The system prompt is the template's (--version): drop the turn, or put its text into a question.",
    "user": "Write human for user and gpt for assistant.",
    "assistant": "Write human for user and gpt for assistant.",
}


def read_records(path: str | os.PathLike) -> list[Record]:
    """The records of a JSON list or of JSON Lines; only their type (object) is checked.

    Raises:
        InputError: as for `visatb.record_stream.stream_records`.
    """
    # Records are kept, so garbage collection would scan ever more of them in vain: half of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return list(stream_records(path))
    finally:
        if collecting:
            gc.enable()


def check_records(
    records: Iterable[Record], path: str | os.PathLike, tasks: Collection[str] | None = None, training: bool = True
) -> None:
    """Refuse the first record that is invalid for training or inference, naming file, record and field.

    Args:
        records: records of one file.
        path: that file, for messages.
        tasks: the known task names; None accepts any task or none.
        training: every turn must be text and every question answered, and ids may repeat, as those of LLaVA's mixes
            do; otherwise `conversations[1]` may be a reference list or absent, and a question about one image need
            not say `<image>`.
    """
    seen: set = set()
    for n, record in enumerate(records):
        check_record(record, f"{path}: {name_of(record, n)}", seen, tasks, training)


def check_record(
    record: Record, where: str, seen: set, tasks: Collection[str] | None = None, training: bool = True
) -> None:
    """Refuse one record of a file; arguments as for `record_problems`."""
    for kind, error in record_problems(record, where, seen, tasks, training):
        if is_refused(kind, training):
            raise error


def is_refused(kind: str, training: bool) -> bool:
    """Whether a problem of `record_problems` is refused, or only reported."""
    return not (training and kind == DUPLICATE_ID)


def record_problems(
    record: Record, where: str, seen: set, tasks: Collection[str] | None = None, training: bool = True
) -> Iterator[tuple[str, InputError]]:
    """Problems of one record as (kind, error), as far as one problem does not hide others.

    `is_refused` decides which of them `check_records` raises.

    Args:
        record: the record.
        where: file and record, for messages.
        seen: ids of the file so far; the record's own is added.
        tasks, training: as for `check_records`.
    """
    rules = {
        "id": partial(_check_id, record, where),
        DUPLICATE_ID: partial(_check_new, record, where, seen),
        FOREIGN_KEY: partial(_check_keys, record, where, training),
        "unknown task": partial(_check_task, record, where, tasks),
        "conversation": partial(_check_turns, record, where, training),
        "image field": partial(_check_image_names, record, where),
        "<image> tokens": partial(_check_image_tokens, record, where, training),
    }
    is_foreign = False
    for kind, rule in rules.items():
        if is_foreign and kind == "conversation":
            return
        try:
            rule()
        except InputError as error:
            yield kind, error
            is_foreign = is_foreign or kind == FOREIGN_KEY
            if kind in ("conversation", "image field"):
                return


def image_names(record: Record) -> list[str]:
    """The image paths of a record, relative to the image folder: [] for a text-only one."""
    image = record.get("image")
    if image is None:
        return []
    return list(image) if isinstance(image, list) else [image]


def is_empty(text: str) -> bool:
    """Whether a turn is empty. An empty answer is not supervised; a question may consist of an image only."""
    return not text or text.isspace()


def spoken_turns(record: Record) -> list[dict[str, Any]]:
    """The turns of a checked training record that are rendered: question and answer by turns."""
    turns = record["conversations"]
    return turns[len(turns) % 2 :]


def message_parts(text: str) -> list[str | None]:
    """The parts of a turn for a chat template: texts, and None for an image.

    A line break beside `<image>` belongs to the mark. A turn without images is one text, which may be empty.
    """
    pieces = text.split(IMAGE_TOKEN)
    parts: list[str | None] = []
    for n, piece in enumerate(pieces):
        if n:
            parts.append(None)
            piece = piece.removeprefix("\n")
        if n + 1 < len(pieces):
            piece = piece.removesuffix("\n")
        if piece or len(pieces) == 1:
            parts.append(piece)
    return parts


def is_unanswered(record: Record) -> bool:
    """Whether all answers of a checked training record are empty, so that nothing is supervised."""
    return all(is_empty(turn["value"]) for turn in spoken_turns(record)[1::2])


def omitted_file(answer_file: Path) -> Path:
    """The file that lists the records missing in an answer file: `{"position", "id", "image", "reason"}` per line."""
    return answer_file.with_name(answer_file.stem + ".omitted.jsonl")


def refuse_missing_folder(image_folder: str | os.PathLike) -> None:
    """Refuse a missing image folder: otherwise every image would count as unreadable. Raises InputError."""
    if not os.path.isdir(image_folder):
        raise InputError(f"{os.fspath(image_folder)}: no such folder. Check --image_folder (IMAGE_FOLDER).")


def most_bad_images(with_images: int) -> int:
    """Number of records with an unreadable image that `skip` accepts: a share of those with images, at least one."""
    return max(1, int(BAD_IMAGE_SHARE * with_images))


def resolve_image(image_folder: str | os.PathLike, name: str, where: str) -> Path:
    """The path of an image, which must be inside the image folder after following links.

    Args:
        image_folder: the folder that `image` fields are relative to.
        name: the `image` field.
        where: file and record, for messages.

    Raises:
        InputError: if the path is absolute, leaves the folder, or is not a regular file.
    """
    folder = os.path.realpath(image_folder)
    if os.path.isabs(name) or "\0" in name:
        raise InputError(f"{where}: image {name!r} must be relative to the image folder. Make it relative.")
    path = os.path.realpath(os.path.join(folder, name))
    if os.path.commonpath([folder, path]) != folder:
        raise InputError(f"{where}: image {name!r} leaves the image folder {image_folder}. Move the file inside it.")
    if not os.path.isfile(path):
        state = "not a regular file" if os.path.exists(path) else "not found"
        raise InputError(f"{where}: image {name!r} {state} in {image_folder}. Check the field and --image_folder.")
    return Path(path)


def _check_keys(record: Record, where: str, training: bool) -> None:
    found = foreign_key(record, training)
    if found is not None:
        raise InputError(f"{where}: {found.field}: {found.rule}")


def _check_id(record: Record, where: str) -> None:
    identifier = record.get("id")
    if identifier is not None and not _is_id(identifier):
        raise InputError(f"{where}: id must be a string or an integer, got {_kind(identifier)}. Correct the id.")


def _check_new(record: Record, where: str, seen: set) -> None:
    identifier = record.get("id")
    if not _is_id(identifier):
        return
    if identifier in seen:
        raise InputError(f"{where}: id occurs twice in the file. Give every record its own id.")
    seen.add(identifier)


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _check_task(record: Record, where: str, tasks: Collection[str] | None) -> None:
    task = record.get("task")
    if tasks is not None and task not in tasks:
        remedy = "Correct the field, or name the benchmark file that has the task (--benchmark, BENCHMARK)."
        raise InputError(f"{where}: task must be one of {', '.join(tasks)}, got {shown(task)}. {remedy}")


def _check_turns(record: Record, where: str, training: bool) -> None:
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        got = "an empty list" if turns == [] else _kind(turns)
        raise InputError(f"{where}: conversations must be a list of turns, got {got}. Add the conversation.")
    # LLaVA's data has conversations that open with a gpt turn; the preprocessing drops that turn, as LLaVA does.
    skipped = 1 if training and isinstance(turns[0], dict) and turns[0].get("from") == "gpt" else 0
    for n, turn in enumerate(turns):
        at = f"{where}: conversations[{n}]"
        if not isinstance(turn, dict):
            raise InputError(f"{at} must be an object with from and value, got {_kind(turn)}. Correct the turn.")
        role = ROLES[(n + skipped) % 2]
        if turn.get("from") != role:
            got = turn.get("from")
            raise InputError(f"{at}.from must be {role!r}, got {shown(got)}. {_ROLE_ADVICE.get(str(got), _TAKE_TURNS)}")
        value = turn.get("value")
        is_reference = not training and n == 1
        if is_reference and isinstance(value, list) and value and all(isinstance(v, str) for v in value):
            continue
        if not isinstance(value, str):
            raise InputError(f"{at}.value must be a string, got {_kind(value)}. Correct the turn.")
    if training and (len(turns) == skipped or (len(turns) - skipped) % 2):
        raise InputError(f"{where}: the last question has no answer. Add the gpt turn or drop the question.")


def _check_image_names(record: Record, where: str) -> None:
    for name in image_names(record):
        if not isinstance(name, str) or not name:
            raise InputError(f"{where}: image must be a path or a list of paths, got {shown(name)}. Correct the field.")
        if _NO_PATH.match(name) or len(name) > _LONGEST_PATH:
            remedy = "Save the image as a file in the image folder and name that"
            raise InputError(f"{where}: image must be a path, got {shown(name)}. {remedy}.")


def _check_image_tokens(record: Record, where: str, training: bool) -> None:
    names = image_names(record)
    spoken = {role: [t["value"] for t in record["conversations"] if t["from"] == role] for role in ROLES}
    in_answers = sum(value.count(IMAGE_TOKEN) for value in spoken["gpt"])
    if in_answers:
        raise InputError(f"{where}: an answer contains {IMAGE_TOKEN}. Images belong to questions: remove it.")
    tokens = sum(value.count(IMAGE_TOKEN) for value in spoken["human"])
    if not training and len(names) == 1:
        return  # a question refers to its record's single image, however often it has the token (as in LLaVA)
    if tokens != len(names):
        raise InputError(
            f"{where}: {tokens} {IMAGE_TOKEN} token(s) for {len(names)} image(s). Write one {IMAGE_TOKEN} per image."
        )


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
