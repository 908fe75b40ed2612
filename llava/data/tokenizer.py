"""The tokenizer of a checkpoint, read in the one way that LLaVA's ids and labels are defined for."""

import logging
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizer

from visatb.errors import InputError


def read_tokenizer(name_or_path: str, **options: Any) -> PreTrainedTokenizer:
    """The slow tokenizer of a folder or Hub name.

    Args:
        name_or_path: folder or Hub name.
        options: for `AutoTokenizer.from_pretrained`, such as model_max_length.

    Raises:
        InputError: if it is not there, is damaged, or exists as a fast one alone.
    """
    log = logging.getLogger("transformers.models.llama.tokenization_llama")
    # It recommends a setting that would change the ids models were trained on.
    silent, log.disabled = log.disabled, True
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, use_fast=False, **options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{name_or_path}: tokenizer cannot be read: {reason} Check the path and its files.") from None
    finally:
        log.disabled = silent
    if tokenizer.is_fast:
        raise InputError(f"{name_or_path}: has a fast tokenizer alone. Add its tokenizer.model.")
    return tokenizer
