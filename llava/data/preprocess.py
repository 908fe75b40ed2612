"""A conversation to token ids and labels: the one place where they are made, for training and for inference.

Shapes: T tokens of one sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
) -> dict[str, torch.Tensor]:
    """Token ids and labels of one conversation, of its full length (the collator cuts).

    A conversation that opens with a gpt turn loses that turn, as in LLaVA. Answers with their end token are
    supervised, everything else is not.

    Args:
        turns: the `conversations` of a record: {"from": "human" or "gpt", "value": text}, taking turns.
        tokenizer: a slow tokenizer.
        conversation: the template; its own example messages are not used.
        mm_use_im_start_end: put `<im_start>`, `<im_end>` around images; the tokenizer must know them.
        image_count: images of the record. 0: `<image>` in the text is ordinary characters. None: not known, and as in
            LLaVA several `<image>` of one turn become one.

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
    input_ids, labels = encode_segments(filled.render(images=image_count != 0), tokenizer)
    return {"input_ids": input_ids, "labels": labels}


def preprocess_question(
    question: str,
    tokenizer: PreTrainedTokenizer,
    conversation: Conversation,
    mm_use_im_start_end: bool = False,
    image_count: int | None = None,
) -> torch.Tensor:
    """The prompt for one question, token for token what `preprocess` puts before its answer.

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
    """A turn with its `<image>` moved to the front, followed by a newline, and tagged as the template wants it.

    Args:
        text: the turn; without `<image>` it comes back as it is.
        conversation: a template whose version has "mmtag" puts `<Image>...</Image>` around.
        mm_use_im_start_end: put `<im_start>`, `<im_end>` around.
        several: keep more than one `<image>` where they stand, for their places carry meaning.
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


def encode_segments(
    segments: Sequence[Segment], tokenizer: PreTrainedTokenizer
) -> tuple[torch.LongTensor, torch.LongTensor]:
    """Token ids and labels of rendered segments, which are tokenised as one text.

    A boundary inside a stretch of text is the token count of what lies before it since the last atomic token, so
    tokens never depend on what is supervised. In literal segments the strings of special tokens are ordinary
    characters; images are never supervised.

    Args:
        segments: from `Conversation.render`.
        tokenizer: a slow tokenizer (transformers 4.31.0's fast ones cannot be told to ignore special strings).

    Returns:
        input_ids int64 [T], labels int64 [T].
    """
    if tokenizer.is_fast:
        raise ValueError("tokenizer must be a slow one, got a fast one. Load it with use_fast=False.")
    strips = _Strips(tokenizer)
    parts = _stripped(_parts(segments, tokenizer), strips)
    ids = [tokenizer.bos_token_id] if getattr(tokenizer, "add_bos_token", False) else []
    labels = [IGNORE_INDEX] * len(ids)
    opens_text = True
    for part in parts:
        if isinstance(part, _Run):
            run_ids, run_labels = _encode_run(part, tokenizer, opens_text)
            opens_text = False
        elif part.token == DEFAULT_IMAGE_TOKEN:
            run_ids, run_labels = [IMAGE_TOKEN_INDEX], [IGNORE_INDEX]
            opens_text = True  # LLaVA tokenises what follows an image as a text of its own
        else:
            run_ids = [tokenizer.convert_tokens_to_ids(part.token)]
            run_labels = run_ids if part.supervised else [IGNORE_INDEX]
            opens_text = False
        ids += run_ids
        labels += run_labels
    return torch.tensor(ids, dtype=torch.long), torch.tensor(labels, dtype=torch.long)


def _texts_in_turn(turns: Sequence[Mapping[str, str]], conversation: Conversation) -> list[str]:
    if conversation.sep_style == SeparatorStyle.PLAIN:
        # LLaVA's stage 1 takes the pair as it comes, whatever the roles are called.
        if len(turns) != 2 or DEFAULT_IMAGE_TOKEN not in turns[0]["value"]:
            raise ValueError("a plain conversation must be one turn with <image> and its caption. Mend the record.")
        return [turn["value"] for turn in turns]
    if not turns:
        raise ValueError("conversations must hold at least one turn, got none. Add the conversation.")
    if turns[0]["from"] == "gpt":
        turns = turns[1:]
    for n, turn in enumerate(turns):
        role = ("human", "gpt")[n % 2]
        if turn["from"] != role:
            raise ValueError(f"turn {n} must be from {role!r}, got {turn['from']!r}. Let human and gpt take turns.")
    return [turn["value"] for turn in turns]


def _with_messages(conversation: Conversation, texts: Sequence[str | None]) -> Conversation:
    filled = conversation.copy()
    filled.messages = [[conversation.roles[n % 2], text] for n, text in enumerate(texts)]
    return filled


def _parts(segments: Sequence[Segment], tokenizer: PreTrainedTokenizer) -> list[_Run | _Atom]:
    """Segments as atoms and the runs of text between them."""
    atoms = set(tokenizer.unique_no_split_tokens)
    parts: list[_Run | _Atom] = []
    for segment in segments:
        for piece in _pieces(segment, tokenizer):
            if not segment.literal and (piece == DEFAULT_IMAGE_TOKEN or piece in atoms):
                parts.append(_Atom(piece, segment.supervised))
                continue
            if not parts or not isinstance(parts[-1], _Run):
                parts.append(_Run())
            parts[-1].spans.append((piece, segment.supervised))
    return parts


def _pieces(segment: Segment, tokenizer: PreTrainedTokenizer) -> list[str]:
    if segment.literal:
        return [segment.text]
    pieces = []
    for n, text in enumerate(segment.text.split(DEFAULT_IMAGE_TOKEN)):
        pieces += [DEFAULT_IMAGE_TOKEN] if n else []
        pieces += tokenizer.tokens_trie.split(text) if text else []
    return [piece for piece in pieces if piece]


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


def _encode_run(run: _Run, tokenizer: PreTrainedTokenizer, opens_text: bool) -> tuple[list[int], list[int]]:
    """Ids and labels of a run of text."""
    text = "".join(text for text, _ in run.spans)
    ids = tokenizer.convert_tokens_to_ids(_text_tokens(text, tokenizer, opens_text))
    if len({supervised for _, supervised in run.spans}) == 1:
        return ids, list(ids) if run.spans[0][1] else [IGNORE_INDEX] * len(ids)
    labels = [IGNORE_INDEX] * len(ids)
    end = start = 0
    for n, (piece, supervised) in enumerate(run.spans):
        end += len(piece)
        last = n + 1 == len(run.spans)
        if not last and run.spans[n + 1][1] == supervised:
            continue
        stop = len(ids) if last else min(len(ids), len(_text_tokens(text[:end], tokenizer, opens_text)))
        if supervised:
            labels[start:stop] = ids[start:stop]
        start = stop
    return ids, labels


def _text_tokens(text: str, tokenizer: PreTrainedTokenizer, opens_text: bool) -> list[str]:
    """Tokens of text in which no special token is looked for."""
    if not getattr(tokenizer, "legacy", True):
        # What LlamaTokenizer.tokenize does before it splits at special tokens (legacy=False, as Vicuna 1.5 has it).
        text = text.replace(_SPIECE_UNDERLINE, " ")
        text = _SPIECE_UNDERLINE + text if opens_text else text
    return tokenizer._tokenize(text) if text else []
