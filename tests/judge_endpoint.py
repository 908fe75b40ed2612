"""A judge on this machine: a stub of an OpenAI-compatible endpoint, for every test that has answers rated."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Endpoint:
    """Rates the reference 8 and a prediction by the number in it (`rated 4`), 6 where there is none.

    Attributes:
        url: base address.
        bodies, headers: of every request so far.
        script: (status, content) of the next replies, in place of ratings. Bytes are the whole body as it stands, a
            list of bytes its pieces, 50 ms apart; a third value is the length that the header claims, or more headers.
        reply: what a request gets when the script is empty, in the same form.
        models: the body of the reply to GET /models.
    """

    def __init__(self):
        self.bodies, self.headers, self.script = [], [], []
        self.closing = threading.Event()
        self.reply = usual_reply
        self.models = json.dumps({"object": "list", "data": [{"id": "judge-1", "object": "model"}]}).encode()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.bodies.append(body)
                endpoint.headers.append(dict(self.headers))
                status, content, *more = endpoint.script.pop(0) if endpoint.script else endpoint.reply(body)
                if isinstance(content, str | None):
                    content = chat_reply(content) if status == 200 else content.encode()
                pieces = content if isinstance(content, list) else [content]
                claimed, headers = sum(map(len, pieces)), {}
                for value in more:
                    claimed, headers = (claimed, value) if isinstance(value, dict) else (value, headers)
                self._send(status, pieces, {"Content-Length": str(claimed), **headers})

            def do_GET(self):
                found = self.path == "/v1/models"
                body = endpoint.models if found else b"no such page"
                self._send(200 if found else 404, [body], {"Content-Length": str(len(body))})

            def _send(self, status, pieces, headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for n, piece in enumerate(pieces):
                    if n and endpoint.closing.wait(0.05):
                        return
                    self.wfile.write(piece)

            def log_message(self, *_):
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def prompts(self) -> list[str]:
        """What the judge was asked."""
        return [body["messages"][1]["content"] for body in self.bodies]


@contextmanager
def judge_endpoint() -> Iterator[Endpoint]:
    """An endpoint that listens, the key in the environment and no proxy on the way."""
    endpoint = Endpoint()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "secret")
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        yield endpoint
    endpoint.closing.set()
    endpoint.server.shutdown()
    endpoint.server.server_close()


def chat_reply(content) -> bytes:
    """The body of a reply that says `content`."""
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


def usual_reply(body: dict) -> tuple[int, str]:
    """Status and content of the reply to a request."""
    said = re.search(r"\[\w+ 2\]\nrated (\d+)", body["messages"][1]["content"])
    return 200, f"8 {said[1] if said else 6}\nbecause"
