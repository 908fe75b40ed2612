"""Loads a checkpoint's tokenizer with the settings that LLaVA's ids and labels are defined for."""

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import LlamaTokenizer, PreTrainedTokenizer

from llava.hub import companion
from visatb.cli import one_line
from visatb.errors import InputError
from visatb.files import read_json
from visatb.value_rules import (
    FLAG,
    NULL,
    NUMBER,
    OBJECT,
    TEXT,
    Rule,
    check,
    list_of,
    one_of,
    whole,
)

TOKENIZER_FILE = "tokenizer.model"
_ADDED_TOKEN = Rule(
    "an object with its content", lambda value: isinstance(value, dict) and TEXT.holds(value.get("content"))
)
_SPECIAL = (
    dict.fromkeys(("bos_token", "eos_token", "unk_token"), TEXT | _ADDED_TOKEN)
    | dict.fromkeys(("pad_token", "sep_token", "cls_token", "mask_token"), TEXT | _ADDED_TOKEN | NULL)
    | {"additional_special_tokens": list_of(TEXT | _ADDED_TOKEN) | NULL}
)
# By file; keys that are not here are not read, but for those of added_tokens.json.
_SETTINGS = {
    "tokenizer_config.json": _SPECIAL
    | {
        "model_max_length": Rule("a number above 0", lambda value: value is None or NUMBER.holds(value) and value > 0),
        "padding_side": one_of("right", "left"),
        "truncation_side": one_of("right", "left"),
        "add_bos_token": FLAG,
        "add_eos_token": FLAG,
        "legacy": FLAG,
        "use_fast": FLAG,
        "clean_up_tokenization_spaces": FLAG,
        "split_special_tokens": FLAG,
        "model_input_names": list_of(TEXT),
        "tokenizer_class": TEXT | NULL,
        "tokenizer_file": TEXT | NULL,
        "special_tokens_map_file": TEXT | NULL,
        "name_or_path": TEXT | NULL,
        "sp_model_kwargs": OBJECT | NULL,
        "init_inputs": one_of([]),
    },
    "special_tokens_map.json": _SPECIAL,
    "added_tokens.json": {},
}
# Errors of transformers and sentencepiece for damaged tokenizer files.
_UNUSABLE = (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError)


def read_tokenizer(name_or_path: str | Path, cache_dir: str | None = None, **options: Any) -> PreTrainedTokenizer:
    """The SentencePiece tokenizer of a model folder or Hub name.

    Always Llama's own class: a tokenizer_config.json can name others, and code of its own.

    Args:
        name_or_path: folder or Hub name.
        cache_dir: where downloads are kept.
        options: for `LlamaTokenizer.from_pretrained`, such as model_max_length.

    Raises:
        InputError: missing or damaged files.
    """
    file = companion(name_or_path, TOKENIZER_FILE, cache_dir)
    if file is None:
        raise InputError(
            f"{name_or_path}: has no {TOKENIZER_FILE}. Copy the tokenizer files of its base model into it."
        )
    for name, rules in _SETTINGS.items():  # of a Hub name: downloaded into the same folder
        settings = companion(name_or_path, name, cache_dir)
        if settings is not None:
            _check(read_json(settings), rules, settings)
    try:
        with no_advice():
            return LlamaTokenizer.from_pretrained(file.parent, vocab_file=str(file), **options)
    except _UNUSABLE as error:
        reason = one_line(error)
        raise InputError(
            f"{name_or_path}: tokenizer cannot be read: {reason} Copy the tokenizer files again."
        ) from None


def check_vocabulary(
    tokenizer: PreTrainedTokenizer, rows: int, source: str | Path, to_come: Collection[str] = ()
) -> None:
    """Refuse a tokenizer with pieces without an embedding in the model: the first text with one would end the run.

    Args:
        tokenizer: as it was read.
        rows: embeddings of the model; more than there are pieces are fine.
        source: folder or Hub name of the tokenizer, for the message.
        to_come: tokens whose embeddings are made after the model is loaded, or which never reach it.

    Raises:
        InputError: naming both numbers.
    """
    if len(tokenizer) <= rows:
        return
    lacking = [token for token, n in tokenizer.get_vocab().items() if n >= rows and token not in to_come]
    if lacking:
        raise InputError(
            f"{source}: the tokenizer has {len(tokenizer)} pieces, the model {rows} embeddings (none for "
            f"{lacking[0][:50]!r}). Use the tokenizer files that belong to the model."
        )


def _check(content: Any, rules: Mapping[str, Rule], file: Path) -> None:
    """Refuse invalid tokenizer settings. Raises InputError naming file and key."""
    if not isinstance(content, dict):
        raise InputError(f"{file}: must be a JSON object. Copy the tokenizer files again.")
    check(content, rules or dict.fromkeys(content, whole(0, 2**22)), file)


@contextmanager
def no_advice() -> Iterator[None]:
    """Keep Llama's tokenizer from recommending a setting that would change the ids that models were trained on."""
    log = logging.getLogger("transformers.models.llama.tokenization_llama")
    silent, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = silent
