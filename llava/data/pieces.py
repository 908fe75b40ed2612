"""Cached properties of a tokenizer's tokens: looking them up takes longer than tokenising."""

from collections.abc import Sequence
from functools import cached_property

from transformers import LlamaTokenizer, PreTrainedTokenizer

_SPACE = "\u2581"  # how SentencePiece writes a space


class TokenIds(dict):
    """Ids by token."""

    def __init__(self, tokenizer: PreTrainedTokenizer):
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token: str) -> int:
        self[token] = self._tokenizer.convert_tokens_to_ids(token)
        return self[token]


class _TokenSizes(dict):
    """Bytes of text that tokens of SentencePiece stand for."""

    def __init__(self, tokenizer: PreTrainedTokenizer):
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token: str) -> int:
        model = self._tokenizer.sp_model
        self[token] = 1 if model.is_byte(model.piece_to_id(token)) else len(token.encode())
        return self[token]


class Boundaries:
    """Finds the number of tokens of a text's prefix from the tokens of the whole text.

    BPE merges the best pair first, the leftmost of equals. If no merge crosses a position in the whole text, the merges
    before it happen in the same order and with the same result as for the prefix alone. This holds if the text is not
    normalised before merging, as in LLaMA's tokenizers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizer):
        self._tokenizer = tokenizer
        self._size_of_token = _TokenSizes(tokenizer)

    def tokens_before(self, tokens: Sequence[str], rest: str) -> int | None:
        """The number of tokens before the last part of a text; None if a token crosses the boundary or it is ambiguous.

        Args:
            tokens: of the whole text.
            rest: the last part.
        """
        if not self._are_readable:
            return None
        left, n, size_of_token = len(rest.replace(" ", _SPACE).encode()), len(tokens), self._size_of_token
        while left > 0 and n > 0:
            n -= 1
            left -= size_of_token[tokens[n]]
        # The first token may be the leading space of a text, or lack it.
        return n if left == 0 and n > 1 else None

    @cached_property
    def _are_readable(self) -> bool:
        """Whether the tokenizer is BPE without normalisation and without splitting of merged pieces."""
        if not isinstance(self._tokenizer, LlamaTokenizer):
            return False
        from sentencepiece.sentencepiece_model_pb2 import ModelProto

        model = ModelProto.FromString(self._tokenizer.sp_model.serialized_model_proto())
        normalizer, trainer = model.normalizer_spec, model.trainer_spec
        return (
            trainer.model_type == trainer.BPE
            and not trainer.treat_whitespace_as_suffix
            and not normalizer.precompiled_charsmap
            and not normalizer.remove_extra_whitespaces
            and normalizer.escape_whitespaces
            and not any(piece.type == piece.UNUSED for piece in model.pieces)
        )
