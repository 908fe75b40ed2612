"""Converts conversations to token ids and labels, for training and for inference.

Shapes: T tokens of one sample.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedTokenizer
from transformers.tokenization_utils import AddedToken

from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_TOKEN,
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
)
from llava.conversation import Conversation, Segment, SeparatorStyle
from llava.data.pieces import Boundaries, TokenIds
from visatb.errors import InputError
from visatb.records import Record, name_of

_SPIECE_UNDERLINE = "\u2581"


@dataclass
class _Run:
    """Text between two atoms; the tokenizer sees it in one piece. `spans` are (text, supervised)."""

    spans: list[tuple[str, bool]] = field(default_factory=list)


@dataclass
class _Atom:
    """A token that text is split at: `<image>`, `</s>` and the like of the template, added tokens."""

    token: str
    supervised: bool


def preprocess(
    turns: Sequence[Mapping[str, str]],
    tokenizer: PreTrainedTokenizer,
    conversation: Conversation,
    mm_use_im_start_end: bool = False,
    image_count: int | None = None,
    encoder: "SegmentEncoder | None" = None,
) -> dict[str, torch.Tensor]:
    """Token ids and labels of one conversation, at full length (the collator truncates).

    A leading gpt turn is dropped, as in LLaVA. Answers with their end token are supervised; everything else and empty
    answers are not.

    Args:
        turns: the `conversations` of a record: {"from": "human" or "gpt", "value": text}, taking turns.
        tokenizer: a slow tokenizer.
        conversation: the template; its own example messages are not used.
        mm_use_im_start_end: put `<im_start>`, `<im_end>` around images; the tokenizer must know them.
        image_count: number of images of the record. 0: `<image>` in the text is plain characters. None: unknown; as in
            LLaVA, several `<image>` of one turn become one.
        encoder: created once from that tokenizer for many conversations; None: created here.

    Returns:
        input_ids: int64 [T], -200 where an image goes; labels: int64 [T], -100 where not supervised.

    Raises:
        ValueError: unknown roles, roles out of order, a plain record that is not one image and one caption.
    """
    texts = _texts_in_turn(turns, conversation)
    if image_count != 0:
        several = image_count is not None and image_count > 1
        texts = [place_images(text, conversation, mm_use_im_start_end, several) for text in texts]
    filled = _with_messages(conversation, texts)
    encode = SegmentEncoder(tokenizer) if encoder is None else encoder
    input_ids, labels = encode(filled.render(images=image_count != 0))
    return {"input_ids": input_ids, "labels": labels}


def preprocess_question(
    question: str,
    tokenizer: PreTrainedTokenizer,
    conversation: Conversation,
    mm_use_im_start_end: bool = False,
    image_count: int | None = None,
) -> torch.Tensor:
    """The prompt for one question, identical to the tokens that `preprocess` puts before its answer.

    Args:
        question: the `value` of a human turn.
        tokenizer, conversation, mm_use_im_start_end, image_count: as for `preprocess`.

    Returns:
        input_ids: int64 [T].
    """
    if image_count != 0:
        several = image_count is not None and image_count > 1
        question = place_images(question, conversation, mm_use_im_start_end, several)
    opened = _with_messages(conversation, [question, None])
    return encode_segments(opened.render(images=image_count != 0), tokenizer)[0]


def place_images(text: str, conversation: Conversation, mm_use_im_start_end: bool, several: bool = False) -> str:
    """A turn with its `<image>` moved to the front, followed by a newline, and tagged as the template requires.

    Args:
        text: the turn; without `<image>` it is returned unchanged.
        conversation: a template whose version has "mmtag" puts `<Image>...</Image>` around.
        mm_use_im_start_end: put `<im_start>`, `<im_end>` around.
        several: keep more than one `<image>` in place, because their positions are meaningful.
    """
    if DEFAULT_IMAGE_TOKEN not in text:
        return text
    if not several or text.count(DEFAULT_IMAGE_TOKEN) == 1:
        text = f"{DEFAULT_IMAGE_TOKEN}\n{text.replace(DEFAULT_IMAGE_TOKEN, '').strip()}".strip()
    shown = DEFAULT_IMAGE_TOKEN
    if "mmtag" in conversation.version:
        shown = f"<Image>{shown}</Image>"
    if mm_use_im_start_end:
        start_end = DEFAULT_IM_START_TOKEN + DEFAULT_IMAGE_TOKEN + DEFAULT_IM_END_TOKEN
        shown = shown.replace(DEFAULT_IMAGE_TOKEN, start_end)
    return text.replace(DEFAULT_IMAGE_TOKEN, shown)


def check_trainable(conversation: Conversation, tokenizer: PreTrainedTokenizer, projector_only: bool = False) -> None:
    """Refuse a template whose turns this tokenizer cannot mark; warn of one that does not train the end token.

    Templates with `###` work with any tokenizer: their end is plain text, and generation stops at it.

    Args:
        conversation: the template.
        tokenizer: of the base model.
        projector_only: whether the language model stays as it is (stage 1).

    Raises:
        InputError: a tokenizer without a SentencePiece model, or one in which the template's end of an answer, begin
            of a round or mark of a turn is not a token, or the end is not the tokenizer's own.
    """
    if tokenizer.is_fast:
        raise InputError("the tokenizer has no tokenizer.model (SentencePiece). Choose a Llama or Vicuna base model.")
    style = conversation.sep_style
    marks = {
        SeparatorStyle.TWO: [conversation.sep2],
        SeparatorStyle.LLAMA_2: [conversation.sep, conversation.sep2],
        SeparatorStyle.MPT: [conversation.sep, "<|im_start|>"],
    }.get(style, [])
    remedy = "Choose a --version that suits the base model; Vicuna and LLaVA-1.5 use v1."
    for mark in marks:
        if mark not in tokenizer.unique_no_split_tokens:
            raise InputError(f"the template marks turns with {mark!r}, not a token of this tokenizer. {remedy}")
    if style in (SeparatorStyle.TWO, SeparatorStyle.LLAMA_2) and conversation.sep2 != tokenizer.eos_token:
        end = tokenizer.eos_token
        raise InputError(f"the template ends answers with {conversation.sep2!r}, the tokenizer with {end!r}. {remedy}")
    if style == SeparatorStyle.PLAIN and not projector_only:
        warnings.warn(
            "--version plain is for stage 1 (--tune_mm_mlp_adapter True): a language model trained with it learns "
            "captions without a question and never the end token.",
            stacklevel=2,
        )


def check_fits(records: Iterable[Record], conversation: Conversation, source: str) -> None:
    """Refuse the first record that the template cannot express, before a model is loaded: plain is picky.

    Args:
        records: checked records (`visatb.records.check_records`).
        conversation: the template.
        source: annotation file, for messages.

    Raises:
        InputError: naming file and record.
    """
    if is_picky(conversation):
        for n, record in enumerate(records):
            check_fit(record, f"{source}: {name_of(record, n)}", conversation)


def is_picky(conversation: Conversation) -> bool:
    """Whether there are valid records that the template cannot express."""
    return conversation.sep_style == SeparatorStyle.PLAIN


def check_fit(record: Record, where: str, conversation: Conversation) -> None:
    """Refuse a record that the template cannot express. Raises InputError, which starts with `where`."""
    try:
        _texts_in_turn(record["conversations"], conversation)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def encode_segments(
    segments: Sequence[Segment], tokenizer: PreTrainedTokenizer
) -> tuple[torch.LongTensor, torch.LongTensor]:
    """Token ids and labels, int64 [T] each, of rendered segments: see `SegmentEncoder`."""
    return SegmentEncoder(tokenizer)(segments)


class SegmentEncoder:
    """Turns rendered segments into token ids and labels; the segments are tokenised as one text.

    A boundary inside a stretch of text is the token count of what lies before it since the last atomic token, so
    tokens never depend on what is supervised. In literal segments the strings of special tokens are ordinary
    characters; images are never supervised.

    What depends on the tokenizer and the template alone is remembered from call to call, which makes the second of
    many conversations several times as fast as the first.

    Args:
        tokenizer: a slow tokenizer (transformers 4.31.0's fast ones cannot ignore special strings). Tokens
            must not be added to it afterwards.
    """

    def __init__(self, tokenizer: PreTrainedTokenizer):
        if tokenizer.is_fast:
            raise ValueError("tokenizer must be a slow one, got a fast one. Load it with use_fast=False.")
        self._tokenizer = tokenizer
        self._opening = [tokenizer.bos_token_id] if getattr(tokenizer, "add_bos_token", False) else []
        self._atoms = frozenset(tokenizer.unique_no_split_tokens)
        self._strips = _Strips(tokenizer)
        self._id_of_token = TokenIds(tokenizer)
        self._boundaries = Boundaries(tokenizer)
        self._pieces_of_template: dict[str, list[str]] = {}

    def __call__(self, segments: Sequence[Segment]) -> tuple[torch.LongTensor, torch.LongTensor]:
        """Token ids and labels of the segments of `Conversation.render`.

        Returns:
            input_ids int64 [T], labels int64 [T].
        """
        ids = list(self._opening)
        labels = [IGNORE_INDEX] * len(ids)
        opens_text = True
        for part in _stripped(self._parts(segments), self._strips):
            if isinstance(part, _Run):
                run_ids, run_labels = self._encode_run(part, opens_text)
                opens_text = False
            elif part.token == DEFAULT_IMAGE_TOKEN:
                run_ids, run_labels = [IMAGE_TOKEN_INDEX], [IGNORE_INDEX]
                opens_text = True  # LLaVA tokenises what follows an image as a text of its own
            else:
                run_ids = [self._id_of_token[part.token]]
                run_labels = run_ids if part.supervised else [IGNORE_INDEX]
                opens_text = False
            ids += run_ids
            labels += run_labels
        # By way of numpy: torch.tensor takes three times as long for a list.
        return torch.from_numpy(np.array(ids, dtype=np.int64)), torch.from_numpy(np.array(labels, dtype=np.int64))

    def _parts(self, segments: Sequence[Segment]) -> list[_Run | _Atom]:
        """Segments as atoms and the runs of text between them."""
        parts: list[_Run | _Atom] = []
        for segment in segments:
            for piece in [segment.text] if segment.literal else self._pieces(segment.text):
                if not segment.literal and (piece == DEFAULT_IMAGE_TOKEN or piece in self._atoms):
                    parts.append(_Atom(piece, segment.supervised))
                    continue
                if not parts or not isinstance(parts[-1], _Run):
                    parts.append(_Run())
                parts[-1].spans.append((piece, segment.supervised))
        return parts

    def _pieces(self, text: str) -> list[str]:
        """The text of a template, split at `<image>` and at the tokenizer's special tokens."""
        known = self._pieces_of_template.get(text)
        if known is not None:
            return known
        pieces = []
        for n, part in enumerate(text.split(DEFAULT_IMAGE_TOKEN)):
            pieces += [DEFAULT_IMAGE_TOKEN] if n else []
            pieces += self._tokenizer.tokens_trie.split(part) if part else []
        self._pieces_of_template[text] = [piece for piece in pieces if piece]
        return self._pieces_of_template[text]

    def _encode_run(self, run: _Run, opens_text: bool) -> tuple[list[int], list[int]]:
        """Ids and labels of a run of text."""
        text = "".join(text for text, _ in run.spans)
        tokens, id_of_token = self._text_tokens(text, opens_text), self._id_of_token
        ids = [id_of_token[token] for token in tokens]
        if len({supervised for _, supervised in run.spans}) == 1:
            return ids, list(ids) if run.spans[0][1] else [IGNORE_INDEX] * len(ids)
        labels = [IGNORE_INDEX] * len(ids)
        end = start = 0
        for n, (piece, supervised) in enumerate(run.spans):
            end += len(piece)
            last = n + 1 == len(run.spans)
            if not last and run.spans[n + 1][1] == supervised:
                continue
            stop = len(ids) if last else self._boundaries.tokens_before(tokens, text[end:])
            if stop is None:
                stop = min(len(ids), len(self._text_tokens(text[:end], opens_text)))
            if supervised:
                labels[start:stop] = ids[start:stop]
            start = stop
        return ids, labels

    def _text_tokens(self, text: str, opens_text: bool) -> list[str]:
        """Tokens of text in which no special token is looked for."""
        if not getattr(self._tokenizer, "legacy", True):
            # What LlamaTokenizer.tokenize does before it splits at special tokens (legacy=False, as Vicuna 1.5 has it).
            text = text.replace(_SPIECE_UNDERLINE, " ")
            text = _SPIECE_UNDERLINE + text if opens_text else text
        return self._tokenizer._tokenize(text) if text else []


def _texts_in_turn(turns: Sequence[Mapping[str, str]], conversation: Conversation) -> list[str]:
    if conversation.sep_style == SeparatorStyle.PLAIN:
        # LLaVA's stage 1 takes the pair as it comes, whatever the roles are called.
        if len(turns) != 2 or DEFAULT_IMAGE_TOKEN not in turns[0]["value"]:
            raise ValueError("a plain conversation must be one turn with <image> and its caption. Fix the record.")
        return [turn["value"] for turn in turns]
    if not turns:
        raise ValueError("conversations must hold at least one turn, got none. Add the conversation.")
    skipped = 1 if turns[0]["from"] == "gpt" else 0
    turns = turns[skipped:]
    for n, turn in enumerate(turns):
        role = ("human", "gpt")[n % 2]
        if turn["from"] != role:
            got = turn["from"]
            raise ValueError(f"turn {n + skipped} must be from {role!r}, got {got!r}. Let human and gpt take turns.")
    return [turn["value"] for turn in turns]


def _with_messages(conversation: Conversation, texts: Sequence[str | None]) -> Conversation:
    filled = conversation.copy()
    filled.messages = [[conversation.roles[n % 2], text] for n, text in enumerate(texts)]
    return filled


class _Strips:
    """Whether an atom swallows white space beside it, by the rules of transformers 4.31.0's slow tokenizers."""

    def __init__(self, tokenizer: PreTrainedTokenizer):
        specials = tokenizer.all_special_tokens_extended
        self._extended = {str(token): token for token in specials if isinstance(token, AddedToken)}

    def __call__(self, part: _Run | _Atom | None, side: str) -> bool:
        if not isinstance(part, _Atom) or part.token == DEFAULT_IMAGE_TOKEN:
            return False
        token = self._extended.get(part.token)
        # A token that was added as a plain string takes the white space on both sides.
        return True if token is None else getattr(token, side)


def _stripped(parts: list[_Run | _Atom], strips: _Strips) -> list[_Run | _Atom]:
    for before, part, after in zip([None, *parts], parts, [*parts[1:], None], strict=False):
        if not isinstance(part, _Run):
            continue
        if strips(before, "rstrip"):
            part.spans = _strip_spans(part.spans, left=True)
        if strips(after, "lstrip"):
            part.spans = _strip_spans(part.spans, left=False)
    return [part for part in parts if not isinstance(part, _Run) or any(text for text, _ in part.spans)]


def _strip_spans(spans: list[tuple[str, bool]], left: bool) -> list[tuple[str, bool]]:
    kept = list(spans if left else reversed(spans))
    for n, (text, supervised) in enumerate(kept):
        rest = text.lstrip() if left else text.rstrip()
        kept[n] = (rest, supervised)
        if rest:
            break
    return kept if left else kept[::-1]
