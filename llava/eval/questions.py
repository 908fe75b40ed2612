"""What is asked and how: questions, settings of generation, and which questions share a batch. Needs no torch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.conversation import Conversation, SeparatorStyle, conv_templates
from visatb.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Question:
    """One thing to ask.

    Attributes:
        position: in its file.
        where: file and record, for messages.
        text: the user's words; image tokens in it are moved to the front.
        images: its images: paths, contents of image files, or RGB; () for text only.
        problem: why its images cannot be used, found before anything was loaded; None if all is well.
    """

    position: int
    where: str
    text: str
    images: "tuple[Path | bytes | Image, ...]" = ()
    problem: str | None = None


@dataclass(frozen=True)
class Settings:
    """How to generate. Raises InputError naming the flag that is out of range.

    Attributes:
        conv_mode: name of a conversation template.
        temperature: 0 for greedy or beam search; above, tokens are drawn.
        top_p: draw from the smallest set of tokens that holds this share; None or 1 for all.
        num_beams: width of the beam search; 1 for none.
        max_new_tokens: longest answer.
        seed: of the draws. Each question draws by itself, so answers do not depend on batches or chunks.
    """

    conv_mode: str = "vicuna_v1"
    temperature: float = 0.0
    top_p: float | None = None
    num_beams: int = 1
    max_new_tokens: int = 128
    seed: int = 0

    def __post_init__(self):
        if self.conv_mode not in conv_templates:
            raise InputError(f"--conv-mode must be one of {', '.join(conv_templates)}, got {self.conv_mode!r}.")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"--temperature must be a number >= 0, got {self.temperature}. Use 0 for greedy search.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"--top_p must be in (0, 1], got {self.top_p}. Leave it out to draw from all tokens.")
        for flag, value in (("--num_beams", self.num_beams), ("--max_new_tokens", self.max_new_tokens)):
            if value < 1:
                raise InputError(f"{flag} must be at least 1, got {value}.")
        if self.temperature > 0 and self.num_beams > 1:
            raise InputError("--num_beams above 1 needs --temperature 0: beam search does not draw. Drop one of them.")

    def fingerprint(self) -> dict[str, Any]:
        """The settings that answers depend on."""
        content = asdict(self)
        if self.temperature == 0:
            del content["top_p"], content["seed"]
        return content


def plan_batches(lengths: Sequence[tuple[int, ...]], batch_size: int, equal_lengths: bool = False) -> list[list[int]]:
    """Indices into `lengths` in batches of near lengths, longest first.

    Args:
        lengths: (places, ids) of every prompt.
        equal_lengths: only prompts of the same lengths share a batch. Beam search divides scores by the length of
            prompt and answer, so padding would change which beam wins.
    """
    order = sorted(range(len(lengths)), key=lambda n: ([-length for length in lengths[n]], n))
    batches: list[list[int]] = []
    for n in order:
        room = batches and len(batches[-1]) < batch_size
        if room and (not equal_lengths or lengths[batches[-1][0]] == lengths[n]):
            batches[-1].append(n)
        else:
            batches.append([n])
    return batches


def stop_strings(conversation: Conversation) -> tuple[str, ...]:
    """What ends an answer besides the end token: the separator of templates whose separator is ordinary text."""
    if conversation.sep_style in (SeparatorStyle.SINGLE, SeparatorStyle.MPT):
        return (conversation.sep,)
    return ()


def conv_mode_for(model_name: str) -> str:
    """The template that a model's name suggests; Vicuna's v1, which `--version v1` trains with, where it says nothing.

    Args:
        model_name: of `llava.mm_utils.get_model_name_from_path`: the folders above the model say nothing.
    """
    name = model_name.lower()
    if "llama-2" in name:
        return "llava_llama_2"
    if "mpt" in name and "v1" not in name:
        return "mpt"
    return "llava_v0" if "v0" in name else "vicuna_v1"
