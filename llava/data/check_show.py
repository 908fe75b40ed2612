"""One training record as the model is trained on it: the rendered conversation with its supervised parts marked."""

import re
from collections.abc import Sequence
from itertools import groupby

import torch

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.data.check_samples import Reading
from llava.data.collator import kept_tokens, positions
from llava.data.dataset import encode_record
from visatb.errors import InputError
from visatb.records import Record, image_names, name_of, read_records, record_problems

MARKS = ("【", "】")
_COLOURED = ("\033[32m【", "】\033[0m")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def find_record(paths: Sequence[str], identifier: str) -> tuple[Record, str]:
    """The first record with that id, or of that position if it has none, and how messages name it.

    Raises:
        InputError: if no file has it, or training would refuse it.
    """
    for path in paths:
        for n, record in enumerate(read_records(path)):
            own = record.get("id")
            if str(n if own is None else own) != identifier:
                continue
            where = f"{path}: {name_of(record, n)}"
            for _, error in record_problems(record, where, set()):
                raise error
            return record, where
    raise InputError(f"{', '.join(paths)}: no record has the id {identifier!r}. Check --show.")


def show_record(record: Record, where: str, reading: Reading, coloured: bool = False) -> str:
    """The record as text: text between the marks is supervised, text after the cut is truncated.

    It is reconstructed from token ids and labels, so it shows the training input. Terminal control characters are
    escaped.

    Args:
        record: a valid training record.
        where: file and record.
        reading: with a tokenizer.
        coloured: mark with colour as well.
    """
    sample = encode_record(record, reading.tokenizer, reading.conversation, reading.mm_use_im_start_end, where)
    input_ids, labels = sample["input_ids"], sample["labels"]
    kept = kept_tokens(input_ids, reading.max_length, reading.patches_per_image)
    is_learned = (labels != IGNORE_INDEX) & (torch.arange(len(labels)) < kept)
    is_learned[:1] = False  # the first token is never predicted
    pieces = _pieces(input_ids, record, reading)
    start, end = _COLOURED if coloured else MARKS
    shown = [f"{where}, task {record.get('task')!r}\n"]
    for (cut, learned), members in groupby(range(len(pieces)), key=lambda n: (n >= kept, bool(is_learned[n]))):
        text = _visible(b"".join(pieces[n] for n in members).decode("utf-8", errors="replace"))
        shown.append(f"\n--- cut at --model_max_length {reading.max_length}: the rest is truncated ---\n" * cut)
        shown.append(f"{start}{text}{end}" if learned else text)
    length = positions(input_ids, reading.patches_per_image)
    shown.append(f"\n\n{len(input_ids)} tokens in {length} positions; {int(is_learned.sum())} supervised tokens")
    return "".join(shown)


def _pieces(input_ids: torch.LongTensor, record: Record, reading: Reading) -> list[bytes]:
    """The text of each token; an image by its name."""
    names = iter(image_names(record))
    pieces = []
    for token_id in input_ids.tolist():
        if token_id == IMAGE_TOKEN_INDEX:
            pieces.append(f"<image {next(names)}: {reading.patches_per_image} positions>".encode())
            continue
        token = reading.tokenizer.convert_ids_to_tokens(token_id)
        byte = _BYTE.fullmatch(token)
        pieces.append(bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode())
    return pieces


def _visible(text: str) -> str:
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
