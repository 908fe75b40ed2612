"""Runs a server while a step of the graph runs, on a copy of the model in the layout that servers load.

An intermediate process (`keep`) runs the server; its standard input is a pipe from the step. When the pipe is closed,
by the step or because it was killed, the server and all that it started are ended, processes outside its session
included.
"""

import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import psutil

from scripts_visatb.workflow.job import HEADER, last_lines
from scripts_visatb.workflow.processes import adopt_orphans, die_with_parent
from visatb.errors import InputError, shown
from visatb.files import read_json
from visatb.inference_section import MODEL_MARK, PORT_MARK

HOST = "127.0.0.1"
LONGEST_START = 3600.0  # seconds; a large model is read from a slow disk, and compiled
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0
_KEEPER = f"import sys; from {__name__} import keep; sys.exit(keep(sys.argv[1]))"
# vLLM, SGLang and `transformers serve` answer the first, every OpenAI-compatible server the second.
_HEALTH = ("health", "v1/models")


@contextmanager
def serving(start: str, model: str, log: Path) -> Iterator[str]:
    """Serve a model; yields the address of its endpoint up to and with /v1, once it is healthy.

    Args:
        start: shell command with `{model}` and `{port}`.
        model: folder or Hub name that replaces `{model}`, quoted.
        log: file to which the server's output is appended.

    Raises:
        InputError: the server ends, or is not healthy within an hour.
    """
    port = _free_port()
    command = start.replace(MODEL_MARK, shlex.quote(model)).replace(PORT_MARK, str(port))
    print(f"starting {command} (log: {log})", flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as stream:
        stream.write(f"{HEADER}{time.strftime('%Y-%m-%d %H:%M:%S')} {command}\n".encode())
        stream.flush()
        words = [sys.executable, "-c", _KEEPER, command]
        keeper = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=stream, stderr=stream)
    try:
        _wait_until_healthy(port, keeper, log)
        yield f"http://{HOST}:{port}/v1"
    finally:
        keeper.stdin.close()
        keeper.wait()


@contextmanager
def merged(path: str, base: str, place: Path) -> Iterator[tuple[str, None]]:
    """A LLaVA model of adapters merged into its base; the copy in `place` is deleted at the end."""
    shutil.rmtree(place, ignore_errors=True)  # of a killed attempt
    try:
        yield _merge(path, base, place), None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _merge(path: str, base: str, place: Path) -> str:
    whole = place / "merged"
    _checkpoint_tool("merge_lora_weights", whole, "--model-path", path, "--model-base", base)
    return str(whole)


@contextmanager
def servable(path: str, base: str | None, place: Path) -> Iterator[str]:
    """A model in a layout that servers load; yields its folder or Hub name.

    A LLaVA checkpoint is merged with its base, if it has one, and converted to Hugging Face's layout; the copy is
    deleted at the end.

    Args:
        path, base: of the model, as inference takes them.
        place: folder for the copy.

    Raises:
        InputError: adapters of a current model, or a checkpoint that cannot be converted.
    """
    if not is_llava(path):
        if base is not None:
            raise InputError(
                f"{path}: holds adapters, which engine server does not serve. Train whole models, or use engine hf."
            )
        yield str(Path(path).resolve()) if Path(path).is_dir() else path
        return
    shutil.rmtree(place, ignore_errors=True)  # of a killed attempt
    try:
        if base is not None:
            path = _merge(path, base, place)
        _checkpoint_tool("convert_hf", place / "converted", "--to-hf", "--model-path", path)
        yield str((place / "converted").resolve())
    finally:
        shutil.rmtree(place, ignore_errors=True)


def is_llava(path: str) -> bool:
    """Whether a folder holds a LLaVA checkpoint in this repository's own layout."""
    file = Path(path) / "config.json"
    config = read_json(file) if file.is_file() else {}
    return isinstance(config, dict) and "mm_vision_tower" in config


def _checkpoint_tool(module: str, saved: Path, *words: str) -> None:
    saved.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", f"scripts_visatb.checkpoints.{module}", *words, "--save-model-path", str(saved)]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise InputError(f"{words[-1]}: {module} ended with exit code {code}, see above.")


def keep(command: str) -> int:
    """Run a shell command until it ends or our standard input does, and end all that it started; returns its exit code.

    Descendants whose own parent has ended become children of this process, so that none is missed.
    """
    adopt_orphans()
    stopped = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.append(True))
    server = subprocess.Popen(["bash", "-c", command], stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    while server.poll() is None and not stopped:
        readable, _, _ = select.select([sys.stdin], [], [], _POLL_SECONDS)
        if readable and not os.read(sys.stdin.fileno(), 1):
            break
    code = server.poll()
    _end_descendants()
    return 0 if code is None else code if code >= 0 else 128 - code


def _end_descendants() -> None:
    """End all descendants: SIGTERM first, then SIGKILL, until there are none."""
    me, deadline = psutil.Process(), time.monotonic() + _GRACE_SECONDS
    asked: set[int] = set()
    while living := [one for one in me.children(recursive=True) if _is_alive(one)]:
        late = time.monotonic() > deadline
        for process in living:
            if late or process.pid not in asked:
                asked.add(process.pid)
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL if late else signal.SIGTERM)
        psutil.wait_procs(living, timeout=_POLL_SECONDS)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_until_healthy(port: int, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + LONGEST_START
    while not _is_healthy(port):
        if server.poll() is not None:
            last = last_lines(log, 1)[0][:300]
            raise InputError(
                f"inference.start: the server ended with exit code {server.returncode} before it answered, saying "
                f"{shown(last)} ({log}). Correct the command."
            )
        if time.monotonic() > deadline:
            raise InputError(
                f"inference.start: {HOST}:{port} answers neither /health nor /v1/models after {LONGEST_START:.0f} s "
                f"({log}). Correct the command."
            )
        time.sleep(_POLL_SECONDS)


def _is_healthy(port: int) -> bool:
    opener = build_opener(ProxyHandler({}))  # no proxy for this machine
    for path in _HEALTH:
        try:
            with opener.open(f"http://{HOST}:{port}/{path}", timeout=5) as reply:
                return reply.status == 200
        except HTTPError as error:
            if error.code != 404:
                return False
        except (OSError, HTTPException):
            return False
    return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return free.getsockname()[1]
