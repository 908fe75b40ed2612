"""Data of all zero-shot benchmarks, and a model that must not be loaded."""

import shutil
from pathlib import Path

import pytest
from zero_shot_data import make_zero_shot_data

from llava.generate.llava_engine import LlavaEngine


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """All zero-shot benchmarks. Read only."""
    return make_zero_shot_data(tmp_path_factory.mktemp("zero_shot"))


@pytest.fixture
def own_data(data, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(data, tmp_path / "data"))


@pytest.fixture
def no_model(monkeypatch):
    def load(*_, **__):
        raise AssertionError("the model must not be loaded")

    monkeypatch.setattr(LlavaEngine, "load", load)
