"""Questions to an OpenAI-compatible endpoint, images as data URIs (`llava.generate.engine.Engine`).

One question is one request. The server makes the batches; the pipeline keeps several requests on their way. Whoever
asks a server again gets the same answers only as far as the server computes the same: batches that differ may round
differently.
"""

import base64
import hashlib
import io
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from PIL import Image

from llava.data.images import image_of, resized
from llava.generate.budget import NO_BUDGET
from llava.generate.engine import Prompt
from llava.generate.questions import Question, Settings, marked_text
from visatb.endpoint import Endpoint, excerpt
from visatb.errors import InputError
from visatb.records import message_parts

if TYPE_CHECKING:
    import requests


class ServerEngine:
    """A model at an endpoint with its settings of generation."""

    equal_lengths = False

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        settings: Settings,
        concurrency: int = 8,
        budget: tuple[int | None, int | None] = NO_BUDGET,
    ):
        """Take an endpoint.

        Args:
            endpoint: where to ask.
            model: name of one of its models.
            settings: of generation.
            concurrency: requests that may be under way at a time.
            budget: fewest and most pixels of an image.
        """
        self.endpoint, self.model, self.settings = endpoint, model, settings
        self.concurrency, self._budget = concurrency, budget

    def asking(self, settings: Settings) -> "ServerEngine":
        """The same endpoint with other settings."""
        return type(self)(self.endpoint, self.model, settings, self.concurrency, self._budget)

    def prompt(self, question: Question) -> Prompt:
        """The prompt of a question: its parts. How long it is and whether it fits is the server's to say."""
        return Prompt(question, message_parts(marked_text(question)))

    def load_images(self, question: Question) -> list[str]:
        """The images of a question as data URIs.

        Images are decoded here, as for the other engines (upright, RGB, of as many pixels as in training), and sent as
        PNG, which loses nothing.

        Raises:
            InputError: naming record and path.
        """
        if question.problem is not None:
            raise InputError(question.problem)
        images = (resized(image_of(image, question.where), *self._budget) for image in question.images)
        return [_data_uri(image) for image in images]

    def answer(self, prompts: Sequence[Prompt], images: Sequence[list[str]]) -> list[str]:
        """The answers, one request each.

        Raises:
            InputError: the server refuses the key or the model.
            EndpointError: it does not answer; nothing more can be asked.
            ValueError: it refuses this question, such as one longer than the model's context (400), or fails on it
                (500, after all attempts).
        """
        return [self._ask(prompt, list(uris)) for prompt, uris in zip(prompts, images, strict=True)]

    def release_memory(self) -> None:
        """Nothing to release."""

    def request_of(self, prompt: Prompt, uris: list[str]) -> dict[str, Any]:
        """The body of the request for a question."""
        question, chosen = prompt.question, self.settings
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": _content(prompt.content, uris)}],
            "max_tokens": chosen.max_new_tokens,
            "temperature": chosen.temperature,
        }
        if chosen.temperature > 0:
            # Each question has draws of its own, whatever is asked beside it.
            key = f"{chosen.seed}\n{question.position}\n{question.text}"
            body["seed"] = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1
            if chosen.top_p is not None:
                body["top_p"] = chosen.top_p
        return body

    @cached_property
    def _session(self) -> "requests.Session":
        return self.endpoint.session()

    def _ask(self, prompt: Prompt, uris: list[str]) -> str:
        status, text = self.endpoint.complete(self._session, self.request_of(prompt, uris))
        if status != 200:
            raise ValueError(f"the server replies with {status}: {excerpt(text)}")
        return text.strip()


def _content(parts: Sequence[str | None], uris: list[str]) -> str | list[dict[str, Any]]:
    """The content of a message; a text alone stays a text, which every server takes."""
    if not uris:
        return "".join(part for part in parts if part is not None)
    images = iter(uris)
    return [
        {"type": "image_url", "image_url": {"url": next(images)}} if part is None else {"type": "text", "text": part}
        for part in parts
    ]


def _data_uri(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)  # the fastest: pixels cross the network once
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
