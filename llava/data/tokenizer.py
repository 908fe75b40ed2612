"""The tokenizer of a checkpoint, read in the one way that LLaVA's ids and labels are defined for."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import LlamaTokenizer, PreTrainedTokenizer

from visatb.cli import one_line
from visatb.errors import InputError

TOKENIZER_FILE = "tokenizer.model"
# What a damaged tokenizer file makes transformers and sentencepiece raise.
_UNUSABLE = (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError)


def read_tokenizer(name_or_path: str | Path, **options: Any) -> PreTrainedTokenizer:
    """The SentencePiece tokenizer of a model folder or Hub name.

    Always Llama's own class: a tokenizer_config.json can name others, and code of its own.

    Args:
        name_or_path: folder or Hub name.
        options: for `LlamaTokenizer.from_pretrained`, such as model_max_length or cache_dir.

    Raises:
        InputError: missing or damaged files.
    """
    folder = Path(name_or_path)
    if folder.is_dir() and not (folder / TOKENIZER_FILE).is_file():
        raise InputError(f"{folder}: has no {TOKENIZER_FILE}. Copy the tokenizer files of its base model into it.")
    try:
        with no_advice():
            return LlamaTokenizer.from_pretrained(name_or_path, **options)
    except _UNUSABLE as error:
        reason = one_line(error)
        raise InputError(
            f"{name_or_path}: tokenizer cannot be read: {reason} Copy the tokenizer files again."
        ) from None


@contextmanager
def no_advice() -> Iterator[None]:
    """Keep Llama's tokenizer from recommending a setting that would change the ids that models were trained on."""
    log = logging.getLogger("transformers.models.llama.tokenization_llama")
    silent, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = silent
