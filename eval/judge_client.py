"""Asking a language model behind an OpenAI-compatible endpoint, and never paying twice for a reply that can be read.

Every reply is appended to a JSON Lines file and flushed to the disk before the next is asked for: an interrupted review
resumes where it stopped.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from visatb.errors import InputError
from visatb.files import naming, parse_json, read_text

if TYPE_CHECKING:  # imported where a judge is asked, so that the other metrics do without
    import requests

KEY_VARIABLE, URL_VARIABLE = "OPENAI_API_KEY", "OPENAI_BASE_URL"
DEFAULT_URL = "https://api.openai.com/v1"
_RETRIED = (408, 409, 429, 500, 502, 503, 504)
_NO_ACCESS = (401, 403, 404)
MOST_BYTES = 16 * 2**20  # of a reply's body
_LONGEST_PAUSE = 60


class JudgeError(OSError):
    """The endpoint did not give a usable reply after all attempts; what it said before is kept."""


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
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        self._check()
        key = os.environ.get(KEY_VARIABLE, "")
        if not key.isascii() or not key.isprintable() or not key.strip():
            raise InputError(
                f"{KEY_VARIABLE} must hold the key of the endpoint (any ASCII text if it needs none). Set it."
            )
        retry = Retry(
            total=self.attempts - 1,
            backoff_factor=self.pause,
            backoff_max=_LONGEST_PAUSE,
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
        for attempt in range(1, self.attempts + 1):
            try:
                status, text = self._post(session, body)
                content = _content(text) if status == 200 else None
                break
            except _UnfinishedError as error:  # the adapter retries up to the headers of a reply, not its body
                if attempt == self.attempts:
                    raise JudgeError(f"{self.url}: no whole reply: {excerpt(error)}.") from None
                time.sleep(min(self.pause * 2 ** (attempt - 1), _LONGEST_PAUSE))
        if status in _NO_ACCESS or status == 400:
            raise InputError(
                f"{self.url}: refuses with {status}: {excerpt(text)}. "
                f"Check {KEY_VARIABLE}, --judge-model and --judge-url."
            )
        if content is None:
            raise JudgeError(f"{self.url}: status {status}, no usable reply: {excerpt(text)}.")
        return content

    def _check(self) -> None:
        try:
            address = urlsplit(self.url)
            is_address = address.scheme in ("http", "https") and bool(address.hostname)
        except ValueError:
            is_address = False
        if not is_address:
            got = excerpt(repr(self.url))
            raise InputError(f"--judge-url must be an address that starts with http:// or https://, got {got}. Fix it.")
        if not math.isfinite(self.temperature) or self.temperature < 0 or self.max_tokens < 1:
            raise InputError(
                "the judge's temperature must be a number of at least 0 and its longest reply at least 1 token, "
                f"got {self.temperature} and {self.max_tokens}. Change the flag."
            )

    def _post(self, session: "requests.Session", body: dict[str, Any]) -> tuple[int, str]:
        """Status and text of one reply. Raises JudgeError without one, _UnfinishedError if its body is cut short."""
        import requests

        address = f"{self.url.rstrip('/')}/chat/completions"
        try:
            reply = session.post(address, json=body, timeout=self.timeout, stream=True)
        except requests.RequestException as error:
            raise JudgeError(f"{self.url}: no reply: {excerpt(error)}.") from None
        content = bytearray()
        with reply:
            try:
                for piece in reply.iter_content(2**16):
                    content += piece
                    if len(content) > MOST_BYTES:
                        raise JudgeError(f"{self.url}: a reply is larger than {MOST_BYTES} bytes. Check the endpoint.")
            except requests.RequestException as error:
                raise _UnfinishedError(error) from None
        return reply.status_code, content.decode("utf-8", errors="replace")


class _UnfinishedError(Exception):
    """A reply whose body ended too early."""


def _content(text: str) -> str | None:
    """What the model says in the body of a reply; None if the body has another shape.

    A refusal to answer (null) is a reply, and is paid for. A lone surrogate, which no file can hold, becomes a `?`.
    """
    try:
        body = json.loads(text)
    except RecursionError:
        return None
    except ValueError as error:
        raise _UnfinishedError(f"{error}: {text}") from None
    try:
        content = body["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return None
    if content is not None and not isinstance(content, str):
        return None
    return (content or "").encode("utf-8", errors="replace").decode()


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


def excerpt(value: Any, most: int = 200) -> str:
    """A text in one line of at most that many characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 3] + "..."
