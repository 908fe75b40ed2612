"""What the answering pipeline knows of a model: `Model` before it is loaded, `Engine` afterwards. Needs no torch.

A LLaVA checkpoint is `llava_model.py` and `llava_engine.py`. Another kind of model, or a server, is another pair of
classes with these members; order, batches, the work file, resumption and the answer file are the pipeline's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llava.generate.questions import Question, Settings


@dataclass(frozen=True)
class Prompt:
    """A question as an engine takes it.

    Attributes:
        question: what is asked.
        content: the engine's own form of it.
        lengths: questions of similar lengths share a batch; () where length does not matter.
        refusal: why the model cannot be asked this (longer than its context); None if it can.
    """

    question: Question
    content: Any = None
    lengths: tuple[int, ...] = ()
    refusal: str | None = None


class Engine(Protocol):
    """A loaded model with its settings of generation.

    Attributes:
        equal_lengths: only prompts of the same lengths may share a batch.
    """

    equal_lengths: bool

    def asking(self, settings: Settings) -> "Engine":
        """The same loaded model with other settings."""

    def prompt(self, question: Question) -> Prompt:
        """The prompt of a question; images are not read yet. Raises InputError: images, and the model takes none."""

    def load_images(self, question: Question) -> Any:
        """The images of a question as `answer` takes them; called in threads, ahead of the model.

        Raises:
            InputError, OSError, ValueError: an image that cannot be read; the question alone is without answer.
        """

    def answer(self, prompts: Sequence[Prompt], images: Sequence[Any]) -> list[str]:
        """The answers to a batch.

        Raises:
            RuntimeError, FloatingPointError, ValueError, IndexError: generation failed. The pipeline halves the batch.
        """

    def release_memory(self) -> None:
        """Give back what a failed batch left behind."""


class Model(Protocol):
    """A model that may have to be loaded.

    Attributes:
        name: what answers and file names call it.
        path: what messages call it.
        sees_images: False if it is known to take no images.
    """

    name: str
    path: str
    sees_images: bool

    def fingerprint(self) -> dict[str, Any]:
        """Everything of the model that answers depend on, JSON content; `generator` is its name."""

    def load(self, settings: Settings) -> Engine:
        """Load it."""

    def report(self) -> None:
        """Print one line to stderr that says how it is asked (its template)."""
