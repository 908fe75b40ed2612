"""Renders the conversations of annotation files with a model's own chat template and marks the supervised characters.

A conversation is rendered turn by turn; each rendering must be a prefix of the next, so that inference prompts match
training. Only the answers and their end tokens are supervised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError

from transformers_patch.loss import IGNORE_INDEX
from visatb.cli import one_line
from visatb.errors import InputError, shown
from visatb.records import IMAGE_TOKEN, is_empty, message_parts

_ROLES = {"human": "user", "gpt": "assistant"}
# Two exchanges, so that a template that treats turns by content or position is detected before any record is read.
_PROBE = [
    {"from": "human", "value": "<image>\nfirst probe"},
    {"from": "gpt", "value": "probe of an answer"},
    {"from": "human", "value": "second probe"},
    {"from": "gpt", "value": "<think>\nprobe\n</think>\n\nanother"},
]


@dataclass(frozen=True)
class Rendered:
    """A conversation as text.

    Attributes:
        text: with one placeholder for each image.
        spans: [start, end) of the supervised characters: each answer with its end token.
    """

    text: str
    spans: list[tuple[int, int]]


class PromptTemplate:
    """A model's chat template, for inference prompts.

    Args:
        processor: a processor or tokenizer with `apply_chat_template`.
        name: of the model, for messages.
        template: Jinja text used instead of the model's own.

    Attributes:
        image_token: the placeholder of an image.
        control_tokens: those that structure a conversation; texts must not contain them.

    Raises:
        InputError: the template is missing or fails.
    """

    _remedy = "Correct chat_template.jinja in the model's folder"

    def __init__(self, processor: Any, name: str, template: str | None = None):
        self._processor = processor
        self._name = name
        self._template = template or getattr(processor, "chat_template", None)
        if not self._template:
            raise InputError(f"{name}: has no chat template. {self._remedy}.")
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self.image_token: str = getattr(processor, "image_token", IMAGE_TOKEN)
        self._specials = [
            token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special and token.content
        ]
        self.control_tokens = self._control_tokens()

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the tokenizer must add its own special tokens, as `apply_chat_template` decides it."""
        start = self._tokenizer.bos_token
        return start is None or not self.prompt(_PROBE[:1]).startswith(start)

    def prompt(self, turns: Sequence[Mapping[str, str]]) -> str:
        """The text after which the model writes its answer to the last of the turns, a question.

        Raises:
            InputError: a turn with a control token, or one that the template refuses.
        """
        self._refuse_control_tokens(turns)
        return self._apply(messages_of(turns), add_generation_prompt=True)

    def _control_tokens(self) -> frozenset[str]:
        rendered = self._apply(messages_of(_PROBE), add_generation_prompt=True)
        tokenizer = self._tokenizer
        names = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, self.image_token}
        names |= {getattr(self._processor, "video_token", None)}
        return frozenset(token for token in self._specials if token in names or token in rendered)

    def _refuse_control_tokens(self, turns: Sequence[Mapping[str, str]]) -> None:
        for n, turn in enumerate(turns):
            text = turn["value"].replace(IMAGE_TOKEN, "")
            found = next((token for token in self.control_tokens if token in text), None)
            if found is not None:
                raise InputError(
                    f"conversations[{n}].value contains {found!r}, a control token of {self._name}. Remove it from the "
                    "text."
                )

    def _apply(self, messages: list[dict[str, Any]], add_generation_prompt: bool = False) -> str:
        try:
            return self._processor.apply_chat_template(
                messages,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise InputError(f"{self._name}: the chat template fails: {one_line(error)}. {self._remedy}.") from None


class Chat(PromptTemplate):
    """A model's chat template, for training: it must render conversations turn by turn.

    Raises:
        InputError: the template is missing, or cannot be split into turns.
    """

    _remedy = "Give another with --chat_template (CHAT_TEMPLATE)"

    def __init__(self, processor: Any, name: str, template: str | None = None):
        super().__init__(processor, name, template)
        self._header, self._lead, self._end, self._rest = self._frame()

    @property
    def end_token(self) -> str:
        """The token after an answer."""
        return self._end.strip()

    def render(self, turns: Sequence[Mapping[str, str]]) -> Rendered:
        """A conversation of alternating questions and answers. An empty answer is not supervised.

        An answer directly follows its generation prompt: `Assistant:`, where white space that the
        template adds belongs to the answer (SmolVLM), or `assistant` and a line break, even where the template's own
        conversation has a space between them (LLaVA-OneVision).

        Raises:
            InputError: a turn with a control token, or a conversation that the template does not render turn by turn.
        """
        self._refuse_control_tokens(turns)
        messages = messages_of(turns)
        text, spans, rendered = "", [], ""
        for k in range(0, len(messages), 2):
            question, asked, answered = self._turn(messages[: k + 2], rendered)
            answer = self._answer_in(answered[len(question) :], turns[k + 1]["value"], k + 1)
            text += asked[len(rendered) :]
            written = self._lead + answer + self._end
            if not is_empty(answer):
                spans.append((len(text), len(text) + len(written)))
            text += written + self._rest
            rendered = answered
        self._refuse_lost_images(text, turns)
        return Rendered(text, spans)

    def _turn(self, messages: list[dict[str, Any]], earlier: str) -> tuple[str, str, str]:
        """The conversation up to its last question, that with the start of an answer, and with the answer."""
        question = self._apply(messages[:-1])
        asked = self._apply(messages[:-1], add_generation_prompt=True)
        answered = self._apply(messages)
        if not (question.startswith(earlier) and asked.startswith(question) and answered.startswith(question)):
            raise self._unusable("rewrites earlier turns")
        return question, asked, answered

    def _answer_in(self, segment: str, answer: str, turn: int) -> str:
        """An answer as the template has it: unchanged, or without the white space around it."""
        for candidate in (answer, answer.strip()):
            if segment == self._header + candidate + self._end + self._rest:
                return candidate
        raise self._unusable(f"changes turn {turn}, {shown(answer)}")

    def _frame(self) -> tuple[str, str, str, str]:
        """The text before each answer, the part of it that the model writes, the end token, and what follows."""
        messages, rendered, frames = messages_of(_PROBE), "", set()
        for k in range(0, len(messages), 2):
            question, asked, answered = self._turn(messages[: k + 2], rendered)
            segment, answer, begun = answered[len(question) :], _PROBE[k + 1]["value"], asked[len(question) :]
            if answer not in segment:
                raise self._unusable("drops what an answer says between <think> and </think>")
            header, _, tail = segment.partition(answer)
            if header.split() != begun.split():
                raise self._unusable(f"starts an answer with {header!r} but asks for one with {begun!r}")
            frames.add((header, header.removeprefix(begun) if header.startswith(begun) else "", tail))
            rendered = answered
        if len(frames) > 1:
            raise self._unusable("renders an answer by its place in the conversation")
        header, lead, tail = frames.pop()
        ends = [(tail.index(token) + len(token)) for token in self._specials if token in tail]
        if not ends:
            raise self._unusable("has no end token after an answer, so that the model would not learn to stop")
        return header, lead, tail[: min(ends)], tail[min(ends) :]

    def _refuse_lost_images(self, text: str, turns: Sequence[Mapping[str, str]]) -> None:
        wanted, found = sum(turn["value"].count(IMAGE_TOKEN) for turn in turns), text.count(self.image_token)
        if found != wanted:
            raise self._unusable(f"renders {found} {self.image_token} for {wanted} image(s)")

    def _unusable(self, why: str) -> InputError:
        return InputError(f"{self._name}: the chat template cannot be split into turns: it {why}. {self._remedy}.")


def messages_of(turns: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Turns of an annotation file as chat messages."""
    return [
        {
            "role": _ROLES[turn["from"]],
            "content": [
                {"type": "image"} if part is None else {"type": "text", "text": part}
                for part in message_parts(turn["value"])
            ],
        }
        for turn in turns
    ]


def labels_of(ids_T: torch.Tensor, offset_T2: torch.Tensor, spans: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Labels int64 [T] of a tokenised text: a token's id if the token starts in a supervised span, else IGNORE_INDEX.

    Args:
        ids_T: int64 [T].
        offset_T2: int64 [T, 2], the characters [start, end) of each token.
        spans: supervised characters.
    """
    start_T, end_T = offset_T2.unbind(-1)
    supervised_T = torch.zeros_like(ids_T, dtype=torch.bool)
    for start, end in spans:
        supervised_T |= (start_T >= start) & (start_T < end)
    return torch.where(supervised_T & (end_T > start_T), ids_T, IGNORE_INDEX)


def moved_spans(spans: Sequence[tuple[int, int]], replacements: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Spans of a text after its placeholders were replaced.

    Args:
        spans: [start, end) in the original text; no placeholder is inside one.
        replacements: in order, each with its `span` before and its `new_span` after.
    """
    moved = []
    for start, end in spans:
        before = [r for r in replacements if r["span"][1] <= start]
        shift = before[-1]["new_span"][1] - before[-1]["span"][1] if before else 0
        moved.append((start + shift, end + shift))
    return moved
