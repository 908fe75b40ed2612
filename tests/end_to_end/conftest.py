"""Data of all zero-shot benchmarks, the inference command on the tiny model, and a model that must not be loaded."""

import shutil
from pathlib import Path

import pytest
from inference_calls import FLAGS, no_model
from zero_shot_data import make_zero_shot_data

import inference_visatb


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """All zero-shot benchmarks. Read only."""
    return make_zero_shot_data(tmp_path_factory.mktemp("zero_shot"))


@pytest.fixture
def own_data(data, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(data, tmp_path / "data"))


@pytest.fixture(name="no_model")
def no_model_is_loaded(monkeypatch):
    """Fails where a test loads one."""
    no_model(monkeypatch)


@pytest.fixture
def infer(tiny_checkpoint, tiny_dataset, tmp_path):
    """Runs the command in this process on the tiny model; returns its exit code."""

    def command(*extra, questions=(tiny_dataset,), model=tiny_checkpoint / "llava-tiny", answers=tmp_path / "answers"):
        argv = ["--model-path", str(model), "--image-folder", str(tiny_dataset.parent / "images"), *FLAGS]
        argv += ["--question-file", *map(str, questions), "--answers-folder", str(answers), *map(str, extra)]
        return inference_visatb.main(argv)

    return command


@pytest.fixture(scope="module")
def expected(tiny_checkpoint, tiny_dataset, tmp_path_factory) -> bytes:
    """The answer file of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("expected")
    code = inference_visatb.main(
        ["--model-path", str(tiny_checkpoint / "llava-tiny"), "--image-folder", str(tiny_dataset.parent / "images")]
        + [*FLAGS, "--question-file", str(tiny_dataset), "--answers-folder", str(folder)]
    )
    assert code == 0
    return (folder / "tiny-train-1k_llava-tiny.json").read_bytes()


@pytest.fixture
def bad_image(tiny_dataset, tmp_path) -> Path:
    """An image folder in which 003.png is damaged."""
    folder = tmp_path / "images"
    shutil.copytree(tiny_dataset.parent / "images", folder)
    (folder / "003.png").write_bytes((folder / "003.png").read_bytes()[:60])
    return folder
