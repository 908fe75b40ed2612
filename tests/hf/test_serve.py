"""`--engine server` with a real `transformers serve`: the texts of `--engine hf`, whoever is killed on the way."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from forked import Forked, free_port
from waiting import until

import inference_visatb
from tests.hf.tiny_folders import make_folder, make_questions

COUNT = 24
NAME = "questions_tiny.json"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model and questions, and the answers of --engine hf."""
    folder = tmp_path_factory.mktemp("serve")
    make_folder(folder / "model")
    make_questions(folder, COUNT)
    engine = ["--engine", "hf", "--model-path", str(folder / "model")]
    assert inference_visatb.main(flags(folder, folder / "expected", *engine)) == 0
    return folder


def flags(place, answers, *more):
    words = ["--image-folder", place / "images", "--question-file", place / "questions.json", "--model-name", "tiny"]
    return list(map(str, [*words, "--answers-folder", answers, "--max_new_tokens", "8", *more]))


def asking(place, answers, port, repository, *more):
    """The command against the server, in a process of its own."""
    url, model = f"http://127.0.0.1:{port}/v1", place / "model"
    engine = ["--engine", "server", "--server-url", url, "--server-model", model, "--concurrency", "2", *more]
    return Forked([str(repository / "inference_visatb.py"), *flags(place, answers, *engine)], os.environ, repository)


@contextmanager
def serving(place, port):
    """`transformers serve` on a port, healthy; killed with its children at the end."""
    program = Path(sys.executable).with_name("transformers")
    words = [program, "serve", place / "model", "--host", "127.0.0.1", "--port", port, "--device", "cpu"]
    settings = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    with open(place / "server.log", "ab") as log:
        command = [sys.executable, *map(str, words)]
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | settings, start_new_session=True)
    try:
        until(lambda: healthy(port), server, 0.1)
        yield server
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def healthy(port):
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok
    except requests.RequestException:
        return False


def lines(answers):
    return sum(part.read_bytes().count(b"\n") for part in (answers / "work").glob("*/*.jsonl"))


def wait_for(count, answers, client):
    until(lambda: lines(answers) >= count, client, 0.001)


def test_killed_client_and_server_change_no_text_of_engine_hf(place, tmp_path, repository):
    port = free_port()
    answers = tmp_path / "answers"
    with serving(place, port) as server:
        client = asking(place, answers, port, repository)
        wait_for(3, answers, client)
        client.kill()
        client.communicate()
        kept = lines(answers)
        assert 3 <= kept < COUNT and not (answers / NAME).exists()
        client = asking(place, answers, port, repository, "--retries", "0")
        wait_for(kept + 3, answers, client)
        os.killpg(server.pid, signal.SIGKILL)
        error = client.communicate()[1]
        assert client.returncode == 1 and "no reply: " in error.splitlines()[-1]
        assert kept + 3 <= lines(answers) < COUNT and not (answers / NAME).exists()
    with serving(place, port):
        client = asking(place, answers, port, repository)
        error = client.communicate()[1]
        assert client.returncode == 0, error
    assert (answers / NAME).read_bytes() == (place / "expected" / NAME).read_bytes()
    assert lines(answers) == COUNT, "no question is asked twice"
