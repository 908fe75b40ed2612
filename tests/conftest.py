"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def environment_as_it_was():
    """transformers writes the precision of a run into the environment, where the next test would find it."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True, scope="session")
def indexes_of_their_own(tmp_path_factory):
    """Indexes of annotation files, which trainings keep beside these, are not written into a checkout or recordings."""
    os.environ["VISATB_CACHE"] = str(tmp_path_factory.mktemp("indexes"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of recorded reference outputs; tests that need it skip without it."""
    folder = Path(os.environ.get("VISATB_GOLDEN", ROOT.parent / "shared" / "golden"))
    if not folder.is_dir():
        pytest.skip("the recorded reference outputs are not on this machine")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A folder with `llama`, `vision_tower`, `mm_projector.bin` and `llava-tiny` (see tiny.py). Read only."""
    from tiny import make_tiny_checkpoint

    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny_checkpoint"))


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> Path:
    """An annotation file of 24 records (every sixth text-only); images in its folder's `images`. Read only."""
    from tiny import make_tiny_dataset

    return make_tiny_dataset(tmp_path_factory.mktemp("tiny_dataset"), 24)
