"""What is asked and how: questions, settings of generation, and which questions share a batch. Needs no torch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from llava.conversation import CONVERSATION_VERSION, USUAL_TEMPLATE, Conversation, SeparatorStyle, conv_templates
from visatb.errors import InputError, shown
from visatb.files import read_json
from visatb.records import IMAGE_TOKEN

if TYPE_CHECKING:
    from PIL.Image import Image


# Public checkpoints that record nothing and were trained with another template, by their whole names.
_OF_PUBLIC_MODELS = {
    "llava-llama-2-13b-chat-lightning-preview": "llava_llama_2",
    "llava-llama-2-7b-chat-lightning-lora-preview": "llava_llama_2",
}


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
        conv_mode: name of a conversation template of LLaVA; None for models that have a chat template of their own.
        temperature: 0 for greedy or beam search; above, tokens are drawn.
        top_p: draw from the smallest set of tokens that holds this share; None or 1 for all.
        num_beams: width of the beam search; 1 for none.
        max_new_tokens: longest answer.
        seed: of the draws. Each question has its own generator, so answers do not depend on batches or chunks.
    """

    conv_mode: str | None = USUAL_TEMPLATE
    temperature: float = 0.0
    top_p: float | None = None
    num_beams: int = 1
    max_new_tokens: int = 128
    seed: int = 0

    def __post_init__(self):
        if self.conv_mode is not None:
            _refuse_unknown(self.conv_mode, "--conv-mode")
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
        if self.conv_mode is None:
            del content["conv_mode"]
        return content


def marked_text(question: Question) -> str:
    """The text of a question with one `<image>` for each image, as models with a chat template are trained.

    Marks stay where they are; images without marks come first.
    """
    text, count = question.text, len(question.images)
    if text.count(IMAGE_TOKEN) == count:
        return text
    return (IMAGE_TOKEN + "\n") * count + text.replace(IMAGE_TOKEN, "").strip()


def check_name(name: str) -> None:
    """Raise InputError if a model's name cannot be part of a file name."""
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise InputError(f"--model-name must be usable in a file name, got {name!r}. Leave out slashes.")


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


def template_of(model_path: str, asked: str | None = None) -> tuple[str, str]:
    """The conversation template to ask a model with, and why it is that one.

    A folder's name says nothing: it is the user's, and any word may hold "mpt" or "v0".

    Args:
        model_path: folder or Hub name of a checkpoint, a projector or an adapter.
        asked: `--conv-mode`; None if it was left out.

    Returns:
        a name in `conv_templates`, and the reason in words.

    Raises:
        InputError: no such template, or a config.json that records none of them.
    """
    if asked is not None:
        _refuse_unknown(asked, "--conv-mode")
        return asked, "--conv-mode"
    file = _config_file(model_path)
    config = None if file is None else read_json(file)
    recorded = config.get(CONVERSATION_VERSION) if isinstance(config, dict) else None
    if recorded is not None:
        _refuse_unknown(recorded, f"{file}: {CONVERSATION_VERSION}")
        # v1 and vicuna_v1 are one template; answers know it by the second name.
        name = USUAL_TEMPLATE if conv_templates[recorded] is conv_templates[USUAL_TEMPLATE] else recorded
        return name, f"{model_path} was trained with --version {recorded}"
    name = _OF_PUBLIC_MODELS.get(PurePath(model_path).name)
    if name is not None:
        return name, f"{PurePath(model_path).name} is known to be trained with it"
    return USUAL_TEMPLATE, f"{model_path} does not record another; --conv-mode overrides it"


def _config_file(model_path: str) -> Path | None:
    if Path(model_path).is_dir():
        file = Path(model_path) / "config.json"
        return file if file.is_file() else None
    from llava.hub import companion  # slow to import, and only a Hub name needs it

    return companion(model_path, "config.json")


def _refuse_unknown(name: Any, where: str) -> None:
    if not isinstance(name, str) or name not in conv_templates:
        raise InputError(f"{where} must be one of {', '.join(conv_templates)}, got {shown(name)}.")
