"""Conversation templates and the renderer that training and inference share.

`Conversation.render()` returns the text as segments that are marked as supervised or not; `get_prompt()` joins them.
The system prompts and separators are exactly LLaVA's, since models were trained with them.
"""

import enum
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN
from visatb.errors import InputError
from visatb.records import is_empty

CONVERSATION_VERSION = "conversation_version"  # key of config.json: the template that a model was trained with

USUAL_TEMPLATE = "vicuna_v1"  # of LLaVA-1.5, and of `--version v1`

# An image in a message, with the start and end tokens that mm_use_im_start_end puts around it.
_IMAGE = re.compile(f"((?:{DEFAULT_IM_START_TOKEN})?{DEFAULT_IMAGE_TOKEN}(?:{DEFAULT_IM_END_TOKEN})?)")


class SeparatorStyle(enum.Enum):
    """How a template joins roles and messages."""

    SINGLE = enum.auto()
    TWO = enum.auto()
    MPT = enum.auto()
    PLAIN = enum.auto()
    LLAMA_2 = enum.auto()


class Segment(NamedTuple):
    """A piece of a rendered conversation.

    Attributes:
        text: the piece.
        supervised: whether its tokens are supervised: assistant answers with their end token.
        literal: whether it is text of a message, in which `</s>` or `<image>` are plain characters.
    """

    text: str
    supervised: bool = False
    literal: bool = False


@dataclass
class Conversation:
    """A template and the messages of one conversation.

    Attributes:
        system: system prompt.
        roles: names of user and assistant.
        messages: [role, text] pairs, starting with roles[0]; text None leaves the turn open, as a prompt does; a tuple
            (text, image, ...) as the first text is how LLaVA's web demo attaches an image.
        offset: number of example messages that belong to the template.
        sep, sep2: separators; their position depends on sep_style.
        version: name that decides small differences, such as `<Image>` tags.
    """

    system: str
    roles: tuple[str, str]
    messages: Sequence[Sequence[Any]] = field(default_factory=list)
    offset: int = 0
    sep_style: SeparatorStyle = SeparatorStyle.SINGLE
    sep: str = "###"
    sep2: str | None = None
    version: str = "Unknown"
    skip_next: bool = False

    def get_prompt(self) -> str:
        """The whole conversation as text: the join of `render()`."""
        return "".join(segment.text for segment in self.render())

    def render(self, images: bool = True) -> list[Segment]:
        """The conversation as segments.

        A supervised segment starts right after the role marker, before its space (`...ASSISTANT:` | ` answer</s>`). An
        empty message is rendered with its markers and its end, and an empty answer is not supervised: it would teach
        the model to answer with nothing.

        Args:
            images: whether `<image>` in a message stands for an image; False makes it plain characters.
        """
        messages = [(role, message) for role, message in self._spoken_messages()]
        if self.sep_style == SeparatorStyle.LLAMA_2 and messages and messages[0][1] is None:
            raise ValueError(
                "the first message must not be open: llama_2 puts the system prompt into it. Set its text."
            )
        body = {
            SeparatorStyle.SINGLE: self._render_named,
            SeparatorStyle.TWO: self._render_named,
            SeparatorStyle.MPT: self._render_mpt,
            SeparatorStyle.PLAIN: self._render_plain,
            SeparatorStyle.LLAMA_2: self._render_llama_2,
        }[self.sep_style]
        segments = []
        for segment in body(messages):
            segments.extend(_split_images(segment) if segment.literal and images else [segment])
        return [segment for segment in segments if segment.text]

    def append_message(self, role: str, message: str | tuple | None) -> None:
        """Add a message; a template of `conv_templates` must be copied first."""
        if isinstance(self.messages, tuple):
            raise TypeError("a template cannot be changed; call .copy() and append to the copy")
        self.messages.append([role, message])

    def copy(self) -> "Conversation":
        """A separate conversation with the same template and messages."""
        return replace(self, messages=[[role, message] for role, message in self.messages])

    def dict(self) -> dict[str, Any]:
        """The conversation as JSON values; attached images are omitted."""
        messages = [[role, text[0] if isinstance(text, tuple) else text] for role, text in self.messages]
        return {
            "system": self.system,
            "roles": self.roles,
            "messages": messages,
            "offset": self.offset,
            "sep": self.sep,
            "sep2": self.sep2,
        }

    def _spoken_messages(self) -> list[tuple[str, str | None]]:
        messages = [(role, text) for role, text in self.messages]
        if messages and isinstance(messages[0][1], tuple):
            role, (text, *_) = messages[0]
            text = text.replace(DEFAULT_IMAGE_TOKEN, "").strip()
            if "mmtag" in self.version:
                shown = f"<Image>{DEFAULT_IMAGE_TOKEN}</Image>"
                messages[:1] = [(self.roles[0], shown), (self.roles[1], "Received."), (role, text)]
            else:
                messages[0] = (role, f"{DEFAULT_IMAGE_TOKEN}\n{text}")
        return [(role, text[0] if isinstance(text, tuple) else text) for role, text in messages]

    def _render_named(self, messages: list[tuple[str, str | None]]) -> Iterator[Segment]:
        """SINGLE and TWO: `ROLE: message<sep>`; TWO ends answers with sep2."""
        ends = (self.sep, self.sep if self.sep_style == SeparatorStyle.SINGLE else self.sep2)
        yield Segment(self.system + self.sep)
        for n, (role, message) in enumerate(messages):
            yield Segment(role + ":")
            if message is not None:
                learned = n % 2 == 1 and not is_empty(message)
                yield Segment(" ", learned)
                yield Segment(message, learned, literal=True)
                yield Segment(ends[n % 2], learned)

    def _render_mpt(self, messages: list[tuple[str, str | None]]) -> Iterator[Segment]:
        yield Segment(self.system + self.sep)
        for n, (role, message) in enumerate(messages):
            yield Segment(role)
            if message is not None:
                learned = n % 2 == 1 and not is_empty(message)
                yield Segment(message, learned, literal=True)
                yield Segment(self.sep, learned)

    def _render_plain(self, messages: list[tuple[str, str | None]]) -> Iterator[Segment]:
        """PLAIN: an image and its caption. Only the images of an answered question are kept."""
        yield Segment(self.system)
        for n, (_, message) in enumerate(messages):
            if n % 2 == 1:
                learned = message is not None and not is_empty(message)
                yield Segment(message or "", learned, literal=True)
                yield Segment(self.sep if message is not None else "", learned)
            elif n + 1 < len(messages) and messages[n + 1][1] is not None:
                yield Segment(DEFAULT_IMAGE_TOKEN * (message or "").count(DEFAULT_IMAGE_TOKEN))
            elif message:
                yield Segment(message, literal=True)
                yield Segment(self.sep)

    def _render_llama_2(self, messages: list[tuple[str, str | None]]) -> Iterator[Segment]:
        """LLAMA_2: `<s>[INST] question [/INST] answer </s>`; the tokenizer writes the first `<s>`."""
        for n, (_, message) in enumerate(messages):
            if message is None:
                continue
            if n % 2 == 0:
                opening = f"{self.sep}[INST] " if n else f"[INST] <<SYS>>\n{self.system}\n<</SYS>>\n\n"
                yield Segment(opening)
                yield Segment(message, literal=True)
                yield Segment(" [/INST]")
            else:
                learned = not is_empty(message)
                yield Segment(" ", learned)
                yield Segment(message, learned, literal=True)
                yield Segment(f" {self.sep2}", learned)


def _split_images(segment: Segment) -> Iterator[Segment]:
    for n, text in enumerate(_IMAGE.split(segment.text)):
        yield segment._replace(text=text, literal=n % 2 == 0)


def conversation_for_version(version: str) -> Conversation:
    """The template that `--version` of the training scripts names.

    `v0` and `v0.5` train with the v1 template, as in LLaVA and the VisATB reference (whose `v0` only adds a `[PAD]`
    token); a warning says so.

    Raises:
        InputError: if there is no such template.
    """
    if recorded_version(version) != version:
        warnings.warn(f"--version {version} trains with the v1 template, as LLaVA does. Use v1.", stacklevel=2)
        return conv_vicuna_v1
    if version not in conv_templates:
        raise InputError(
            f"--version must be one of {', '.join(conv_templates)}, got {version!r}. Vicuna and LLaVA-1.5 use v1."
        )
    return conv_templates[version]


def recorded_version(version: str) -> str:
    """The name in `conv_templates` that a checkpoint records for `--version`: the template it was trained with."""
    return "v1" if version in ("v0", "v0.5") else version


_HUMAN_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_USER_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_TAG_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant is able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
    "The visual content will be provided with the following format: <Image>visual content</Image>."
)
_LLAMA_2_SYSTEM = (
    "You are a helpful, respectful and honest assistant. "
    "Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)
_EXAMPLE = (
    (
        "Human",
        "What are the key differences between renewable and non-renewable energy sources?",
    ),
    (
        "Assistant",
        "Renewable energy sources are those that can be replenished naturally in a relatively short amount of time, "
        "such as solar, wind, hydro, geothermal, and biomass. Non-renewable energy sources, on the other hand, are "
        "finite and will eventually be depleted, such as coal, oil, and natural gas. Here are some key differences "
        "between renewable and non-renewable energy sources:\n"
        "1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable energy sources "
        "are finite and will eventually run out.\n"
        "2. Environmental impact: Renewable energy sources have a much lower environmental impact than non-renewable "
        "sources, which can lead to air and water pollution, greenhouse gas emissions, and other negative effects.\n"
        "3. Cost: Renewable energy sources can be more expensive to initially set up, but they typically have lower "
        "operational costs than non-renewable sources.\n"
        "4. Reliability: Renewable energy sources are often more reliable and can be used in more remote locations "
        "than non-renewable sources.\n"
        "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to different situations "
        "and needs, while non-renewable sources are more rigid and inflexible.\n"
        "6. Sustainability: Renewable energy sources are more sustainable over the long term, while non-renewable "
        "sources are not, and their depletion can lead to economic and social instability.\n",
    ),
)

conv_vicuna_v0 = Conversation(_HUMAN_SYSTEM, ("Human", "Assistant"), _EXAMPLE, offset=2)
conv_vicuna_v1 = Conversation(
    _USER_SYSTEM, ("USER", "ASSISTANT"), (), 0, SeparatorStyle.TWO, sep=" ", sep2="</s>", version="v1"
)
conv_llama_2 = Conversation(
    _LLAMA_2_SYSTEM, ("USER", "ASSISTANT"), (), 0, SeparatorStyle.LLAMA_2, "<s>", "</s>", version="llama_v2"
)
conv_llava_llama_2 = replace(
    conv_llama_2,
    system="You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language.",
)
conv_mpt = Conversation(
    "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. "
    "The assistant gives helpful and honest answers.",
    ("<|im_start|>user\n", "<|im_start|>assistant\n"),
    (),
    sep_style=SeparatorStyle.MPT,
    sep="<|im_end|>",
    version="mpt",
)
conv_llava_plain = Conversation("", ("", ""), (), sep_style=SeparatorStyle.PLAIN, sep="\n")
conv_llava_v0 = Conversation(_HUMAN_SYSTEM, ("Human", "Assistant"), ())
conv_llava_v0_mmtag = Conversation(_TAG_SYSTEM, ("Human", "Assistant"), (), version="v0_mmtag")
conv_llava_v1 = replace(conv_vicuna_v1, system=_HUMAN_SYSTEM)
conv_llava_v1_mmtag = replace(conv_vicuna_v1, system=_TAG_SYSTEM, version="v1_mmtag")

default_conversation = conv_vicuna_v1
conv_templates: Mapping[str, Conversation] = MappingProxyType(
    {
        "default": conv_vicuna_v0,
        "v0": conv_vicuna_v0,
        "v1": conv_vicuna_v1,
        "vicuna_v1": conv_vicuna_v1,
        "llama_2": conv_llama_2,
        "plain": conv_llava_plain,
        "v0_plain": conv_llava_plain,
        "llava_v0": conv_llava_v0,
        "v0_mmtag": conv_llava_v0_mmtag,
        "llava_v1": conv_llava_v1,
        "v1_mmtag": conv_llava_v1_mmtag,
        "llava_llama_2": conv_llava_llama_2,
        "mpt": conv_mpt,
    }
)
