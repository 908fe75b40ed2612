"""What the answering pipeline knows of a model: `Model` before it is loaded, `Engine` afterwards. Needs no torch.

A LLaVA checkpoint is `llava_model.py` and `llava_engine.py`, a current vision-language model `visatb_hf/model.py` and
`visatb_hf/engine.py`, a server `server_model.py` and `server_engine.py`. Another kind is another pair of classes with
these members; order, batches, the work file, resumption and the answer file belong to the pipeline.
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

    An engine that makes its batches by itself, as a server does, has an attribute `concurrency`: every question is then
    a batch of its own, and `answer` is called in that many threads.
    """

    equal_lengths: bool  # only prompts of the same lengths may share a batch

    def asking(self, settings: Settings) -> "Engine":
        """The same loaded model with other settings."""

    def prompt(self, question: Question) -> Prompt:
        """The prompt of a question; images are not read yet. Raises InputError: images, and the model takes none."""

    def load_images(self, question: Question) -> Any:
        """The images of a question as `answer` takes them; called in threads, ahead of the model.

        InputError, OSError and ValueError mean an image that cannot be read: that question has no answer.
        """

    def answer(self, prompts: Sequence[Prompt], images: Sequence[Any]) -> list[str]:
        """The answers to a batch.

        RuntimeError, FloatingPointError, ValueError and IndexError mean that generation failed: the batch is halved.
        InputError and OSError end the run.
        """

    def release_memory(self) -> None:
        """Release what a failed batch occupies."""


class Model(Protocol):
    """A model that is loaded only if there is something to ask."""

    name: str  # in the answers and in file names
    sees_images: bool  # False where a question with an image must be refused

    def fingerprint(self) -> dict[str, Any]:
        """Everything of the model that answers depend on, JSON content; `generator` is its name."""

    def load(self, settings: Settings) -> Engine:
        """Load it."""

    def report(self) -> None:
        """Print one line to stderr that says how it is asked (its template)."""
