"""Folders of every kind, and commands that are run in this process."""

import json
import shutil

import pytest
from tiny import make_tiny_lora

from visatb.cli import run


@pytest.fixture
def whole(tiny_checkpoint, tmp_path):
    """A whole LLaVA checkpoint, to be changed."""
    return shutil.copytree(tiny_checkpoint / "llava-tiny", tmp_path / "whole")


@pytest.fixture
def lora(tiny_checkpoint, tmp_path):
    """A LoRA folder, to be changed."""
    return make_tiny_lora(tmp_path / "llava-lora", tiny_checkpoint)


@pytest.fixture
def stage1(tiny_checkpoint, tmp_path):
    """A projector-only folder, to be changed."""
    folder = tmp_path / "llava-pretrain"
    folder.mkdir()
    for name in ("mm_projector.bin", "llava-tiny/config.json"):
        shutil.copy(tiny_checkpoint / name, folder)
    return folder


@pytest.fixture
def edit():
    """Changes the top-level keys of a JSON file."""

    def change(file, **changes):
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


@pytest.fixture
def refused(capsys):
    """Runs a command that must end with exit code 2 and one line; returns the line."""

    def command(main, *words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(lambda: main([str(word) for word in words]))
        line = capsys.readouterr().err
        assert ended.value.code == 2, line
        assert line.startswith("error: ") and line.count("\n") == 1, line
        return line

    return command
