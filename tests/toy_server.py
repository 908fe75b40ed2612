"""A stub of a server that the run graph starts, to see what becomes of it."""

import sys
from pathlib import Path

import psutil
from waiting import until

# Notes its own process and one that leaves the session; answers with the kind of the model that it serves.
SERVER = """
import json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
model, port, notes, *flags = sys.argv[1:]
if "stubborn" in flags:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
Path(notes).write_text(f"{os.getpid()} {child.pid}")
if "broken" in flags:
    sys.exit("no such device")
time.sleep(0.3)
kind = json.loads((Path(model) / "config.json").read_text()).get("model_type")


class Handler(BaseHTTPRequestHandler):
    def reply(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        listed = self.path == "/v1/models"
        self.reply(200 if listed else 404, {"data": [{"id": model}]})

    def do_POST(self):
        time.sleep(600 if "slow" in flags else 0)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(200, {"choices": [{"message": {"content": f"a {kind}"}}]})

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""


def start_command(folder: Path) -> str:
    """`inference.start` for the stub; writes it into a folder. Further words: stubborn, broken, slow."""
    (folder / "server.py").write_text(SERVER)
    return f"cd / && {sys.executable} {folder}/server.py {{model}} {{port}} {folder}/pids"


def noted(folder: Path) -> list[int]:
    """The processes of the server, once it has noted them."""
    until(lambda: (folder / "pids").exists() and (folder / "pids").read_text())
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def living(pids: list[int]) -> list[int]:
    """Those of the processes that have not ended."""
    return [pid for pid in pids if _lives(pid)]


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
