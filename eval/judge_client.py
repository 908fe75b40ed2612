"""Asking a language model behind an OpenAI-compatible endpoint, and never paying for the same question twice.

Every reply is appended to a JSON Lines file and flushed to the disk before the next is asked for: an interrupted review
goes on where it stopped.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from visatb.errors import InputError
from visatb.files import parse_json, read_text

KEY_VARIABLE, URL_VARIABLE = "OPENAI_API_KEY", "OPENAI_BASE_URL"
DEFAULT_URL = "https://api.openai.com/v1"
_RETRIED = (408, 409, 429, 500, 502, 503, 504)
_NO_ACCESS = (401, 403, 404)


class JudgeError(OSError):
    """The endpoint did not give a usable reply after all attempts; what it said before is kept."""


@dataclass(frozen=True)
class Judge:
    """An endpoint and how it is asked.

    Attributes:
        model: its name there.
        url: base address, up to and with `/v1`.
        temperature, max_tokens: of the reply.
        attempts: how often a request is tried, with growing pauses (the endpoint's Retry-After is honoured).
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
        """What tells a request from all others; the address of the endpoint is not part of it.

        Args:
            messages: chat messages with role and content.
            draw: 0, or the number of earlier replies that could not be read.
        """
        content = [self.model, self.temperature, self.max_tokens, list(messages), draw]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()

    def session(self) -> requests.Session:
        """A connection pool that retries.

        Raises:
            InputError: an address that is none, or no key in the environment.
        """
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise InputError(f"--judge-url must start with http:// or https://, got {self.url!r}. Mend it.")
        key = os.environ.get(KEY_VARIABLE)
        if not key:
            raise InputError(f"{KEY_VARIABLE} must hold the key of the endpoint (any text if it needs none). Set it.")
        retry = Retry(
            total=self.attempts - 1,
            backoff_factor=self.pause,
            backoff_max=60,
            backoff_jitter=self.pause,
            status_forcelist=_RETRIED,
            allowed_methods=None,  # a request that failed was not answered: asking again is what is wanted
            respect_retry_after_header=True,
            raise_on_status=False,
        )
        session = requests.Session()
        session.trust_env = False  # else ~/.netrc would take the place of the key
        session.proxies = requests.utils.get_environ_proxies(self.url)
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=64))
        session.headers["Authorization"] = f"Bearer {key}"
        return session

    def ask(self, session: requests.Session, messages: Sequence[dict[str, str]]) -> str:
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
        try:
            reply = session.post(f"{self.url.rstrip('/')}/chat/completions", json=body, timeout=self.timeout)
        except requests.RequestException as error:
            raise JudgeError(f"{self.url}: no reply: {_short(error)}") from None
        if reply.status_code in _NO_ACCESS or reply.status_code == 400:
            raise InputError(
                f"{self.url}: refuses with {reply.status_code}: {_short(reply.text)}. "
                f"Check {KEY_VARIABLE}, --judge-model and --judge-url."
            )
        try:
            text = reply.json()["choices"][0]["message"]["content"]
            text = "" if text is None else text  # a refusal to answer is a reply, and is paid for
        except (ValueError, KeyError, IndexError, TypeError):
            text = None
        if reply.status_code != 200 or not isinstance(text, str):
            raise JudgeError(f"{self.url}: status {reply.status_code}, no usable reply: {_short(reply.text)}")
        return text


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

    def add(self, key: str, reply: str) -> None:
        """Append a reply and flush it to the disk."""
        line = json.dumps({"key": key, "reply": reply}, ensure_ascii=True) + "\n"
        with self._lock:
            with open(self.path, "ab") as stream:
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
        readings: a reply that cannot be read is asked for again until there are that many.
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
    found = {n: _first_readable(judge, requests_[n], replies, parse, readings) for n in first_of.values()}
    missing = [n for n, (value, draw) in found.items() if value is None and draw < readings]
    if missing:
        session = judge.session()

        def work(n: int) -> tuple[int, Any]:
            draw = found[n][1]
            while draw < readings:
                reply = judge.ask(session, requests_[n])
                replies.add(judge.key_of(requests_[n], draw), reply)
                value = parse(reply)
                if value is not None:
                    return n, value
                draw += 1
            return n, None

        with (
            ThreadPoolExecutor(concurrency) as pool,
            tqdm(total=len(found), initial=len(found) - len(missing), desc="judging", unit="answer") as bar,
        ):
            futures = [pool.submit(work, n) for n in missing]
            try:
                for future in as_completed(futures):
                    n, value = future.result()
                    found[n] = (value, readings)
                    bar.update()
            except BaseException:
                pool.shutdown(cancel_futures=True)  # what is under way is still paid for, and kept
                raise
    return [found[first_of[key]][0] for key in keys]


def _first_readable(
    judge: Judge, messages: Sequence[dict[str, str]], replies: ReplyFile, parse: Callable[[str], Any], readings: int
) -> tuple[Any, int]:
    """What the stored replies to a request say (None: nothing that can be read), and how many there are."""
    for draw in range(readings):
        reply = replies.replies.get(judge.key_of(messages, draw))
        if reply is None:
            return None, draw
        value = parse(reply)
        if value is not None:
            return value, draw + 1
    return None, readings


def _short(value: Any, most: int = 200) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 3] + "..."
