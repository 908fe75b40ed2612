"""The tokenizer of a checkpoint, read in the one way that LLaVA's ids and labels are defined for."""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import LlamaTokenizer, PreTrainedTokenizer

from llava.hub import companion
from visatb.cli import one_line
from visatb.errors import InputError

TOKENIZER_FILE = "tokenizer.model"
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# What a damaged tokenizer file makes transformers and sentencepiece raise.
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
    for name in _SETTINGS:  # of a Hub name: downloaded into the same folder
        companion(name_or_path, name, cache_dir)
    try:
        with no_advice():
            return LlamaTokenizer.from_pretrained(file.parent, **options)
    except _UNUSABLE as error:
        reason = one_line(error)
        raise InputError(
            f"{name_or_path}: tokenizer cannot be read: {reason} Copy the tokenizer files again."
        ) from None


def check_vocabulary(
    tokenizer: PreTrainedTokenizer, rows: int, source: str | Path, to_come: Collection[str] = ()
) -> None:
    """Refuse a tokenizer with pieces that the model has no embedding of: the first text with one would end the run.

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


@contextmanager
def no_advice() -> Iterator[None]:
    """Keep Llama's tokenizer from recommending a setting that would change the ids that models were trained on."""
    log = logging.getLogger("transformers.models.llama.tokenization_llama")
    silent, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = silent
