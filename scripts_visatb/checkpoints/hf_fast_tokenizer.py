"""Builds tokenizer.json, which current transformers reads, from Llama's SentencePiece model.

Current transformers cannot build the Llama tokenizer of a LLaVA model from tokenizer.model alone.
"""

from collections.abc import Mapping
from typing import Any

from sentencepiece import SentencePieceProcessor
from transformers import LlamaTokenizer

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's symbol for a space


def tokenizer_json(
    tokenizer: LlamaTokenizer, special: Mapping[str, int], described: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """The content of tokenizer.json.

    Args:
        tokenizer: LLaVA's, over a BPE model with byte fallback.
        special: text -> id of every token that is never the result of merges.
        described: text -> `added_token` of each.
    """
    pieces = tokenizer.sp_model
    vocabulary = {pieces.id_to_piece(n): n for n in range(pieces.get_piece_size())}
    begin = tokenizer.bos_token
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [described[text] | {"id": n} for text, n in sorted(special.items(), key=lambda i: i[1])],
        **_spaces(tokenizer.legacy),
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_begin(begin, 0), _sequence("A", 0)],
            "pair": [_begin(begin, 0), _sequence("A", 0), _begin(begin, 1), _sequence("B", 1)],
            "special_tokens": {begin: {"id": begin, "ids": [special[begin]], "tokens": [begin]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": tokenizer.unk_token,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": _merges(pieces, vocabulary),
        },
    }


def added_token(text: str, strips: bool) -> dict[str, Any]:
    """How files describe a token that is found before anything else; `strips`: with the white space around it."""
    return {
        "content": text,
        "lstrip": strips,
        "normalized": False,
        "rstrip": strips,
        "single_word": False,
        "special": True,
    }


def _spaces(legacy: bool) -> dict[str, Any]:
    """What becomes of spaces: a legacy tokenizer puts one at every begin, behind special tokens too."""
    if legacy:
        steps = [
            {"type": "Prepend", "prepend": _SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
        ]
        return {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None}
    scheme = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "first", "split": False}
    return {"normalizer": None, "pre_tokenizer": scheme}


def _merges(pieces: SentencePieceProcessor, vocabulary: Mapping[str, int]) -> list[str]:
    """Every way to make a piece of two others, best piece first: SentencePiece merges by the score of the result."""
    found = []
    for piece, n in vocabulary.items():
        if pieces.is_byte(n) or pieces.is_control(n) or pieces.is_unknown(n):
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((-pieces.get_score(n), vocabulary[left], vocabulary[right], f"{left} {right}"))
    return [merge for *_, merge in sorted(found)]


def _begin(token: str, segment: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": segment}}


def _sequence(name: str, segment: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": segment}}
