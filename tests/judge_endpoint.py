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
        script: (status, content) of the next replies, in place of ratings. Bytes are the whole body as it stands; a
            third value is the length that the header claims.
        reply: what a request gets when the script is empty, in the same form.
    """

    def __init__(self):
        self.bodies, self.headers, self.script = [], [], []
        self.reply = usual_reply
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.bodies.append(body)
                endpoint.headers.append(dict(self.headers))
                status, text, *claimed = endpoint.script.pop(0) if endpoint.script else endpoint.reply(body)
                if not isinstance(text, bytes):
                    text = chat_reply(text) if status == 200 else text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(claimed[0] if claimed else len(text)))
                self.end_headers()
                self.wfile.write(text)

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
    endpoint.server.shutdown()
    endpoint.server.server_close()


def chat_reply(content) -> bytes:
    """The body of a reply that says `content`."""
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


def usual_reply(body: dict) -> tuple[int, str]:
    """Status and content of the reply to a request."""
    said = re.search(r"\[\w+ 2\]\nrated (\d+)", body["messages"][1]["content"])
    return 200, f"8 {said[1] if said else 6}\nbecause"
