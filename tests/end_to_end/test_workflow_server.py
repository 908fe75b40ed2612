"""`inference.engine: server` in the run graph: the model is served for its step alone."""

import json
import os
import signal
import subprocess

import pytest
from toy_graph import command, make_toy, run_graph, write_benchmark
from toy_server import living, noted, start_command
from waiting import until

TARGET = "runs/toy/seed0/done/infer_mini_val.json"


@pytest.fixture
def toy(tmp_path):
    make_toy(tmp_path)
    return tmp_path


def serve(toy, *flags):
    start = " ".join((start_command(toy), *flags))
    write_benchmark(toy, inference={"engine": "server", "start": start, "retries": 0})


def test_a_step_asks_the_server_that_it_starts(toy, repository):
    serve(toy)
    run_graph(toy, repository, TARGET)
    answers = json.loads((toy / "runs/toy/seed0/answers/mini_val/Vqa-val-40_mini.json").read_text())
    assert {answer["conversations"][1]["generative_value"] for answer in answers} == {"a None"}
    assert not living(noted(toy))


def test_a_killed_run_leaves_no_server_behind(toy, repository):
    serve(toy, "slow")
    environment = os.environ | {"PYTHONPATH": str(repository)}
    run = subprocess.Popen(command(TARGET), cwd=toy, env=environment, stdout=subprocess.DEVNULL)
    pids = noted(toy)
    assert run.poll() is None
    run.send_signal(signal.SIGKILL)
    run.wait()
    until(lambda: not living(pids))
