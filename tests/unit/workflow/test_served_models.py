"""A server for one step: started with the model in a layout that it loads, and gone afterwards whatever happens."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from toy_server import living, noted, start_command
from waiting import until

from scripts_visatb.workflow import infer, serve
from scripts_visatb.workflow.models import models_of
from scripts_visatb.workflow.places import Run
from scripts_visatb.workflow.serve import servable, serving
from visatb.benchmark import Benchmark, Task
from visatb.errors import InputError


@pytest.fixture
def start(tmp_path, repository, monkeypatch):
    """The command of a stub server, with further words for it."""
    monkeypatch.setenv("PYTHONPATH", str(repository))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "toy"}')
    return start_command(tmp_path)


def test_a_server_is_healthy_and_then_gone_with_its_children(start, tmp_path):
    with serving(start, str(tmp_path / "model"), tmp_path / "logs" / "log") as url:
        assert json.load(urlopen(f"{url}/models"))["data"][0]["id"] == str(tmp_path / "model")
        pids = noted(tmp_path)
        assert living(pids) == pids
    assert not living(pids)


def test_a_server_that_does_not_end_when_asked_is_killed(start, tmp_path, monkeypatch):
    module = (
        "import sys; from scripts_visatb.workflow import serve; serve._GRACE_SECONDS = 0.5; serve.keep(sys.argv[1])"
    )
    real = subprocess.Popen
    monkeypatch.setattr(
        serve.subprocess, "Popen", lambda words, **more: real([words[0], "-c", module, words[-1]], **more)
    )
    with serving(f"{start} stubborn", str(tmp_path / "model"), tmp_path / "logs" / "log"):
        pids = noted(tmp_path)
    assert not living(pids)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_step_that_is_killed_leaves_no_server_behind(start, tmp_path, number):
    code = "import signal, sys, time; from pathlib import Path; from scripts_visatb.workflow.serve import serving\n"
    # A suite that a shell runs in the background ignores SIGINT, and so would the step.
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "with serving(*sys.argv[1:3], Path(sys.argv[3])): print('healthy', flush=True); time.sleep(600)"
    words = [sys.executable, "-c", code, start, str(tmp_path / "model"), str(tmp_path / "log")]
    step = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while "healthy" not in step.stdout.readline():
        assert step.poll() is None
    pids = noted(tmp_path)
    step.send_signal(number)
    step.communicate()
    until(lambda: not living(pids))


def test_a_server_that_ends_before_it_answers_is_reported_in_one_line(start, tmp_path):
    with (
        pytest.raises(
            InputError,
            match=r"inference.start: the server ended with exit code 1 before .* saying 'no such device' .*log",
        ),
        serving(f"{start} broken", str(tmp_path / "model"), tmp_path / "log"),
    ):
        pytest.fail("it is not healthy")
    assert not living(noted(tmp_path))


def test_a_path_with_spaces_is_one_word_of_the_command(start, tmp_path):
    model = (tmp_path / "model").rename(tmp_path / "a model; exit 3")
    with serving(start, str(model), tmp_path / "log") as url:
        assert json.load(urlopen(f"{url}/models"))["data"][0]["id"] == str(model)


@pytest.fixture
def step(start, tiny_checkpoint, tiny_dataset, tmp_path, monkeypatch):
    """A run whose model `base` is a whole LLaVA checkpoint, to be asked through the server."""
    files = dict.fromkeys(("train", "val", "test"), tiny_dataset.name)
    given = Benchmark(
        name="toy",
        tasks=(Task("A", "exact_match", files),),
        form="simpler",
        data_folder=str(tiny_dataset.parent),
        image_folder=str(tiny_dataset.parent / "images"),
        training={"script": "train.sh", "environment": {"BASE_MODEL_PATH": str(tiny_checkpoint / "llava-tiny")}},
        inference={"engine": "server", "start": start, "concurrency": 4, "retries": 0},
    )
    monkeypatch.setattr(infer, "run_program", lambda words: subprocess.run(words).returncode)  # keeps pytest's handlers
    current = Run(given, tmp_path / "run", 0)
    return current, models_of(given)["base"]


def test_a_llava_checkpoint_is_converted_and_its_copy_deleted(step, tmp_path):
    current, model = step
    assert infer.infer(current, model, "val") == 0
    answers = json.loads(current.answer_file("base", "val", current.benchmark.tasks[0]).read_text())
    assert {answer["conversations"][1]["generative_value"] for answer in answers} == {"a llava"}
    assert {answer["generator"] for answer in answers} == {"base"}
    assert not living(noted(tmp_path)) and not (current.home / "served" / "base_val").exists()


def test_a_step_whose_server_dies_fails_and_resumes(step, tmp_path, monkeypatch):
    current, model = step
    real = subprocess.run

    def killed(words):
        os.kill(noted(tmp_path)[0], signal.SIGKILL)
        return real(words).returncode

    monkeypatch.setattr(infer, "servable", served_as_it_is(tmp_path / "model"))
    with monkeypatch.context() as patch:
        patch.setattr(infer, "run_program", killed)
        assert infer.infer(current, model, "val") == 2
    assert not living(noted(tmp_path))
    assert infer.infer(current, model, "val") == 0


def served_as_it_is(folder: Path):
    """In place of `servable`: a model that needs no conversion."""
    from contextlib import nullcontext

    return lambda *_: nullcontext(str(folder))


def test_adapters_of_a_current_model_are_refused_and_hub_names_passed_on(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with (
        pytest.raises(InputError, match="holds adapters, which engine server does not serve"),
        servable(str(tmp_path), "Qwen/Qwen2-VL-2B-Instruct", tmp_path / "copy"),
    ):
        pytest.fail("nothing to serve")
    with servable("Qwen/Qwen2-VL-2B-Instruct", None, tmp_path / "copy") as model:
        assert model == "Qwen/Qwen2-VL-2B-Instruct"


def test_adapters_of_llava_are_merged_before_they_are_converted(tiny_checkpoint, tmp_path):
    stage1 = tmp_path / "stage1"
    stage1.mkdir()
    for name in ("config.json", "mm_projector.bin"):
        source = tiny_checkpoint / "llava-tiny" if name == "config.json" else tiny_checkpoint
        (stage1 / name).write_bytes((source / name).read_bytes())
    with servable(str(stage1), str(tiny_checkpoint / "llama"), tmp_path / "copy") as model:
        config = json.loads((Path(model) / "config.json").read_text())
        assert config["model_type"] == "llava" and "text_config" in config
        assert Path(model).is_absolute()
    assert not (tmp_path / "copy").exists()
