"""Asking a language model behind an OpenAI-compatible endpoint, and never paying twice for a reply that can be read.

Every reply is appended to a JSON Lines file and flushed to the disk before the next is asked for: an interrupted review
resumes where it stopped.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from visatb.endpoint import KEY_VARIABLE, Endpoint, EndpointError, excerpt
from visatb.endpoint import URL_VARIABLE as URL_VARIABLE
from visatb.errors import InputError
from visatb.files import naming, parse_json, read_text

if TYPE_CHECKING:
    import requests

DEFAULT_URL = "https://api.openai.com/v1"
JudgeError = EndpointError


@dataclass(frozen=True)
class Judge:
    """An endpoint and how it is asked.

    Attributes:
        model: its name there.
        url: base address, up to and with `/v1`.
        temperature, max_tokens: of the reply.
        attempts: how often a request is tried, with growing pauses (the endpoint's Retry-After is honoured). A reply
            whose body is cut short or is no JSON counts as a failed attempt.
        pause: seconds before the second retry; doubled each time.
        timeout: seconds to wait for a reply.
    """

    model: str
    url: str = DEFAULT_URL
    temperature: float = 0.2
    max_tokens: int = 1024
    attempts: int = 6
    pause: float = 1.0
    timeout: float = 120.0

    def key_of(self, messages: Sequence[dict[str, str]], draw: int = 0) -> str:
        """The identity of a request; the address of the endpoint is not part of it.

        Args:
            messages: chat messages with role and content.
            draw: 0, or the number of earlier replies that could not be read.
        """
        content = [self.model, self.temperature, self.max_tokens, list(messages), draw]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()

    def session(self) -> "requests.Session":
        """A connection pool that retries.

        Raises:
            InputError: an address that is none, a setting that no request can hold, or no key in the environment.
        """
        if not math.isfinite(self.temperature) or self.temperature < 0 or self.max_tokens < 1:
            raise InputError(
                "the judge's temperature must be a number of at least 0 and its longest reply at least 1 token, "
                f"got {self.temperature} and {self.max_tokens}. Change the flag."
            )
        return self._endpoint.session()

    def ask(self, session: "requests.Session", messages: Sequence[dict[str, str]]) -> str:
        """The text of one reply.

        Raises:
            InputError: the endpoint refuses the key, the model or the request.
            JudgeError: no usable reply after all attempts.
        """
        body = {
            "model": self.model,
            "messages": list(messages),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        status, text = self._endpoint.complete(session, body)
        if status == 400:
            raise self._endpoint.refusal(status, text)
        if status != 200:
            raise JudgeError(f"{self.url}: status {status}, no usable reply: {excerpt(text)}.")
        return text

    @property
    def _endpoint(self) -> Endpoint:
        return Endpoint(
            self.url,
            flag="--judge-url",
            check=f"{KEY_VARIABLE}, --judge-model and --judge-url",
            needs_key=True,
            attempts=self.attempts,
            pause=self.pause,
            timeout=self.timeout,
        )


class ReplyFile:
    """The replies so far, one `{"key", "reply"}` a line; safe to use from several threads.

    Args:
        path: made at the first reply. A last line that an interruption tore is dropped.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.replies: dict[str, str] = {}
        self._lock = Lock()
        text = read_text(self.path) if self.path.is_file() else ""
        whole, newline, torn = text.rpartition("\n")
        for n, line in enumerate(whole.splitlines(), 1):
            entry = parse_json(line, f"{self.path} line {n}")
            if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("key", "reply")):
                raise InputError(f"{self.path} line {n}: must hold a key and a reply. Move the file away.")
            self.replies[entry["key"]] = entry["reply"]
        if torn:
            with open(self.path, "r+b") as stream:
                stream.truncate(len((whole + newline).encode()))

    def of(self, judge: Judge, messages: Sequence[dict[str, str]]) -> list[str]:
        """The replies of a judge to a request so far, in the order in which they came."""
        found: list[str] = []
        while (reply := self.replies.get(judge.key_of(messages, len(found)))) is not None:
            found.append(reply)
        return found

    def add(self, key: str, reply: str) -> None:
        """Append a reply and flush it to the disk."""
        line = json.dumps({"key": key, "reply": reply}, ensure_ascii=True) + "\n"
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with naming(self.path), open(self.path, "ab") as stream:
                stream.write(line.encode())
                stream.flush()
                os.fsync(stream.fileno())
            self.replies[key] = reply


def collect(
    judge: Judge,
    requests_: Sequence[Sequence[dict[str, str]]],
    replies: ReplyFile,
    parse: Callable[[str], Any],
    readings: int = 3,
    concurrency: int = 4,
) -> list[Any]:
    """What `parse` reads out of the reply to every request; only what the file does not hold is asked.

    Args:
        judge: whom to ask.
        requests_: the messages of each request.
        replies: earlier replies; gets the new ones.
        parse: reply -> what it says; None if it cannot be read.
        readings: how often a run asks until a reply can be read; the next run asks that often again.
        concurrency: requests at a time.

    Returns:
        One per request, None where no reply could be read.

    Raises:
        InputError: the endpoint refuses.
        JudgeError: it does not answer; the replies so far are in the file.
    """
    keys = [judge.key_of(messages) for messages in requests_]
    first_of: dict[str, int] = {}  # equal requests are asked once
    for n, key in enumerate(keys):
        first_of.setdefault(key, n)
    found = {n: first_readable(replies.of(judge, requests_[n]), parse)[1] for n in first_of.values()}
    missing = [n for n, value in found.items() if value is None]
    if missing:
        from tqdm import tqdm

        session = judge.session()

        def work(n: int) -> tuple[int, Any]:
            return n, _read(judge, session, requests_[n], replies, parse, readings)

        with tqdm(total=len(found), initial=len(found) - len(missing), desc="judging", unit="answer") as bar:
            for n, value in _done(work, missing, concurrency):
                found[n] = value
                bar.update()
    return [found[first_of[key]] for key in keys]


def _read(
    judge: Judge,
    session: "requests.Session",
    messages: Sequence[dict[str, str]],
    replies: ReplyFile,
    parse: Callable[[str], Any],
    readings: int,
) -> Any:
    """Ask until a reply can be read; returns what it says, or None after `readings` more that cannot be read."""
    earlier = len(replies.of(judge, messages))
    for draw in range(earlier, earlier + readings):
        reply = judge.ask(session, messages)
        replies.add(judge.key_of(messages, draw), reply)
        value = parse(reply)
        if value is not None:
            return value
    return None


def _done(work: Callable[[int], Any], numbers: Sequence[int], concurrency: int) -> Iterator[Any]:
    """What `work` returns for each number, as it ends, several at a time."""
    with ThreadPoolExecutor(concurrency) as pool:
        futures = [pool.submit(work, n) for n in numbers]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # what is under way is still paid for, and kept
            raise


def first_readable(replies: Sequence[str], parse: Callable[[str], Any]) -> tuple[str, Any]:
    """The first reply that can be read, and what it says; ("", None) if there is none."""
    read = ((reply, parse(reply)) for reply in replies)
    return next(((reply, value) for reply, value in read if value is not None), ("", None))
