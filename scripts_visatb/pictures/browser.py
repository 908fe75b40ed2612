"""A headless Chromium that is driven over a pipe (Chrome DevTools Protocol), without a driver or another package.

The protocol is at https://chromedevtools.github.io/devtools-protocol/; over `--remote-debugging-pipe` a message is JSON
and ends with a NUL byte, to the browser on descriptor 3 and from it on descriptor 4.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from visatb.errors import InputError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root and containers have no namespaces for it; only files of our own are opened
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
    "about:blank",
)


def find_browser() -> str | None:
    """The Chromium or Chrome on the path, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class CommandError(RuntimeError):
    """The browser answered a command with an error, as it does when a navigation takes the page from under it."""


class Page:
    """One tab. Its `errors` are what the browser reported on the console: exceptions, blocked scripts, lost files."""

    def __init__(self, browser: "Browser", session: str):
        self.errors: list[str] = []
        self._browser, self._session = browser, session
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        return self._browser.send(method, self._session, **parameters)

    def open(self, address: str | Path, width: int = 1400, height: int = 900, dark: bool = False) -> None:
        """Load a file or an address in a window of that size, and wait until it is there."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=scheme)
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Page.navigate", url=address.resolve().as_uri() if isinstance(address, Path) else address)
        self.wait("document.readyState === 'complete'")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript condition holds."""
        deadline = time.monotonic() + SECONDS
        while not self._holds(condition):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the browser did not reach: {condition}")
            time.sleep(0.05)

    def _holds(self, condition: str) -> bool:
        try:
            return bool(self.evaluate(condition))
        except CommandError:  # the page that was asked has been left: ask the next one
            return False

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited.

        Raises:
            RuntimeError: if it throws.
        """
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"].get("exception", found)))
        return found["result"].get("value")

    def screenshot(self, file: Path, whole: bool = True) -> None:
        """Write a PNG of the whole page, or of the window."""
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        file.write_bytes(base64.b64decode(shot["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def pdf(self, file: Path) -> None:
        """Write the printed page."""
        file.write_bytes(base64.b64decode(self.send("Page.printToPDF", printBackground=True)["data"]))


class Browser:
    """The browser's process and its two pipes."""

    def __init__(self, program: str, profile: str):
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()

        def place_pipes() -> None:
            high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, to_write)]
            for end, place in zip(high, (3, 4), strict=True):
                os.dup2(end, place)

        self.process = subprocess.Popen(
            [program, f"--user-data-dir={profile}", *_FLAGS],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=place_pipes,
            close_fds=False,  # Python's own descriptors close themselves
        )
        os.close(to_read)
        os.close(to_write)
        self._numbers, self._rest, self._pages = count(1), b"", {}

    def page(self) -> Page:
        """A new tab."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._pages[session] = page = Page(self, session)
        return page

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a command, to a tab or to the browser."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        content = json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        while content:
            content = content[os.write(self._to, content) :]
        while True:
            reply = self._receive()
            if reply.get("id") == number:
                if "error" in reply:
                    raise CommandError(f"{method}: {reply['error']['message']}")
                return reply["result"]
            self._note(reply)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._from], [], [], SECONDS)[0]:
                raise TimeoutError("the browser does not answer")
            part = os.read(self._from, 1 << 20)
            if not part:
                raise RuntimeError("the browser has ended")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        page, what = self._pages.get(event.get("sessionId")), event.get("params", {})
        if page is None:
            return
        if event["method"] == "Runtime.exceptionThrown":
            page.errors.append(str(what["exceptionDetails"]))
        elif event["method"] == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            page.errors.append(what["entry"]["text"])
        elif event["method"] == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            page.errors.append(str(what["args"]))


@contextmanager
def browser(program: str | None = None) -> Iterator[Browser]:
    """A running headless browser; it ends with the block.

    Raises:
        InputError: if none is installed.
    """
    program = program or find_browser()
    if program is None:
        raise InputError("no Chromium or Chrome on the path. Install one, on Debian with apt-get install chromium.")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        started = Browser(program, profile)
        try:
            yield started
        finally:
            started.process.terminate()
            started.process.wait(timeout=SECONDS)
