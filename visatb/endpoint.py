"""The HTTP side of an OpenAI-compatible endpoint: retries with growing pauses, limits, one line for what is wrong.

`Endpoint` is shared by whatever asks a model over the network: the judge (eval/judge_client.py) and the engine that
answers question files (llava/generate/server_engine.py).
"""

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from visatb.errors import InputError

if TYPE_CHECKING:  # imported where something is asked, so that all other commands do without
    import requests

KEY_VARIABLE, URL_VARIABLE = "OPENAI_API_KEY", "OPENAI_BASE_URL"
MOST_BYTES = 16 * 2**20  # of a reply's body
NO_ACCESS = (401, 403, 404)
_RETRIED = (408, 409, 429, 500, 502, 503, 504)
_LONGEST_PAUSE = 60
_OF_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_PIECE = 2**16


class EndpointError(OSError):
    """The endpoint did not give a usable reply after all attempts; what it said before is kept."""


@dataclass(frozen=True)
class Endpoint:
    """An address and how it is asked.

    Attributes:
        url: base address, up to and with `/v1`.
        flag: what names the address, for messages.
        check: what to look at when the endpoint refuses, for messages.
        key_variable: environment variable of the key.
        needs_key: whether a key must be set; most servers of one's own want none.
        attempts: how often a request is tried, with growing pauses (the endpoint's Retry-After is honoured). A reply
            whose body is cut short, too slow or no JSON counts as a failed attempt.
        pause: seconds before the second retry; doubled each time.
        timeout: seconds to wait for the beginning of a reply, and again for its end.
    """

    url: str
    flag: str = "--server-url"
    check: str = f"{KEY_VARIABLE} and --server-url"
    key_variable: str = KEY_VARIABLE
    needs_key: bool = False
    attempts: int = 6
    pause: float = 1.0
    timeout: float = 120.0

    def session(self) -> "requests.Session":
        """A connection pool that retries.

        Raises:
            InputError: an address that is none, or a key that no header can hold.
        """
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        self._check_address()
        key = self._key()
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
        if urlsplit(self.url).hostname not in _OF_THIS_MACHINE:  # no proxy can reach those
            session.proxies = requests.utils.get_environ_proxies(self.url)
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=64))
        if key:
            session.headers["Authorization"] = f"Bearer {key}"
        return session

    def call(self, session: "requests.Session", path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Status and content of a reply: JSON content for 200, else the text of the body.

        Args:
            path: behind the base address, without a slash in front.
            body: of a POST; None for a GET.

        Raises:
            InputError: the endpoint refuses the key, or knows no such address or model (401, 403, 404).
            EndpointError: no whole reply after all attempts.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                status, text = self._exchange(session, path, body)
                content = _parsed(text) if status == 200 else text
                break
            except _UnfinishedError as error:  # the adapter retries up to the headers of a reply, not its body
                if attempt == self.attempts:
                    raise EndpointError(f"{self.url}: no whole reply: {excerpt(error)}.") from None
                time.sleep(min(self.pause * 2 ** (attempt - 1), _LONGEST_PAUSE))
        if status in NO_ACCESS:
            raise self.refusal(status, text)
        return status, content

    def complete(self, session: "requests.Session", body: dict[str, Any]) -> tuple[int, str]:
        """Status and text of the reply to a chat completion: what the model says for 200, else what the endpoint says.

        Raises:
            InputError: as `call`.
            EndpointError: as `call`; a reply of another shape.
        """
        status, content = self.call(session, "chat/completions", body)
        if status != 200:
            return status, content
        said = _said(content)
        if said is None:
            got = content if isinstance(content, str) else json.dumps(content)
            raise EndpointError(f"{self.url}: status {status}, no usable reply: {excerpt(got)}.")
        return status, said

    def refusal(self, status: int, text: str) -> InputError:
        """The error for a request that will be refused again."""
        return InputError(f"{self.url}: refuses with {status}: {excerpt(text)}. Check {self.check}.")

    def _check_address(self) -> None:
        try:
            address = urlsplit(self.url)
            is_address = address.scheme in ("http", "https") and bool(address.hostname)
        except ValueError:
            is_address = False
        if not is_address:
            got = excerpt(repr(self.url))
            raise InputError(f"{self.flag} must be an address that starts with http:// or https://, got {got}. Fix it.")

    def _key(self) -> str:
        key = os.environ.get(self.key_variable, "")
        if not key and not self.needs_key:
            return ""
        if not key.isascii() or not key.isprintable() or not key.strip():
            raise InputError(
                f"{self.key_variable} must hold the key of the endpoint (any ASCII text if it needs none). Set it."
            )
        return key

    def _exchange(self, session: "requests.Session", path: str, body: dict[str, Any] | None) -> tuple[int, str]:
        """Status and text of one reply. Raises EndpointError without one, _UnfinishedError if its body is not whole."""
        import requests
        from urllib3.exceptions import HTTPError

        address = f"{self.url.rstrip('/')}/{path}"
        method = "GET" if body is None else "POST"
        try:
            reply = session.request(method, address, json=body, timeout=self.timeout, stream=True)
        except requests.RequestException as error:
            raise EndpointError(f"{self.url}: no reply: {excerpt(error)}.") from None
        deadline = time.monotonic() + self.timeout
        content = bytearray()
        with reply:
            try:
                # read1 returns what has arrived: a reply that comes byte by byte meets the deadline.
                while piece := reply.raw.read1(_PIECE, decode_content=True):
                    content += piece
                    if len(content) > MOST_BYTES:
                        break
                    if time.monotonic() > deadline:
                        raise _UnfinishedError(f"its end did not come within {self.timeout:g} s")
            except (HTTPError, OSError) as error:
                raise _UnfinishedError(error) from None
        if len(content) > MOST_BYTES:
            raise EndpointError(f"{self.url}: a reply is larger than {MOST_BYTES} bytes. Check the endpoint.")
        claimed = reply.headers.get("Content-Length", "")
        encoded = "Content-Encoding" in reply.headers
        if claimed.isdigit() and not encoded and len(content) < int(claimed):
            raise _UnfinishedError(f"{len(content)} of {claimed} bytes")
        return reply.status_code, content.decode("utf-8", errors="replace")


class _UnfinishedError(Exception):
    """A reply whose body ended too early."""


def _parsed(text: str) -> Any:
    """The JSON content of a body; the text itself if it is nested too deeply to be a reply."""
    try:
        return json.loads(text)
    except RecursionError:
        return text
    except ValueError as error:
        raise _UnfinishedError(f"{error}: {text}") from None


def _said(body: Any) -> str | None:
    """What the model says in a chat completion; None if it has another shape.

    A refusal to answer (null) is a reply, and is paid for. A lone surrogate, which no file can hold, becomes a `?`.
    """
    try:
        content = body["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return None
    if content is not None and not isinstance(content, str):
        return None
    return (content or "").encode("utf-8", errors="replace").decode()


def excerpt(value: Any, most: int = 200) -> str:
    """A text in one line of at most that many characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 3] + "..."
