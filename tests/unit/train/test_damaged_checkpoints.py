"""Checkpoints that are damaged, forged or of another kind of run: what a resumed run takes in their place."""

import json
import os
import shutil

import pytest
import torch
from sentences import make_trainer

from llava.train.run_folder import RunFolder
from transformers_patch import EqualWeighting
from visatb.errors import InputError


def opened(folder):
    run = RunFolder(str(folder), {"lr": 1})
    run.open()
    return run


@pytest.fixture(scope="module")
def finished_saves(tmp_path_factory):
    """A folder with checkpoint-2 and checkpoint-4 of one run, and its settings."""
    folder = tmp_path_factory.mktemp("saves")
    run = opened(folder)
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "per_device_train_batch_size": 8}
    trainer = make_trainer(folder, EqualWeighting(3), save_safetensors=True, **settings)
    trainer.run_digest = run.digest
    run.begin()
    trainer.train()
    run.close()
    return folder


@pytest.fixture
def saves(finished_saves, tmp_path):
    return shutil.copytree(finished_saves, tmp_path / "run")


class Hostile:
    """Runs code when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def to_folder(path):
    path.unlink()
    path.mkdir()


def to_pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = {
    "deleted": lambda path: path.unlink(),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "flipped": flip,
    "emptied": lambda path: os.truncate(path, 0),
    "folder": to_folder,
    "pipe": to_pipe,
    "pickle": lambda path: torch.save(Hostile(path.parent.parent / "ran"), path),
}


FILES = ("manifest.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "random_state_0.pt", "weighter.pt")
FILES += ("trainer_state.json", "config.json")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_found_and_the_one_before_used(saves, capsys, damage, file):
    newest = saves / "checkpoint-4"
    DAMAGE[damage](newest / file)
    assert opened(saves).newest_checkpoint() == str(saves / "checkpoint-2")
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and f"{newest}: " in warning and "resuming from checkpoint-2" in warning
    assert file in warning or file == "manifest.json" and damage == "flipped"
    assert not newest.exists() and (saves / "damaged-checkpoint-4").is_dir() and not (saves / "ran").exists()


def test_an_untouched_checkpoint_is_used(saves, capsys):
    assert opened(saves).newest_checkpoint() == str(saves / "checkpoint-4")
    assert not capsys.readouterr().err


def forge(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "0" * 64},
        {"files": {}},
        {"files": []},
        {"files": {"trainer_state.json": 3}},
        {"world_size": 2},
        {"world_size": "1"},
        {"deepspeed": True},
    ],
    ids=str,
)
def test_a_manifest_that_says_something_else_is_damage(saves, changes):
    forge(saves / "checkpoint-4", **changes)
    assert opened(saves).newest_checkpoint() == str(saves / "checkpoint-2")


def test_a_file_in_place_of_a_checkpoint_is_damage(saves):
    shutil.rmtree(saves / "checkpoint-4")
    (saves / "checkpoint-4").write_text("x")
    assert opened(saves).newest_checkpoint() == str(saves / "checkpoint-2")


def test_files_beside_those_that_were_saved_are_no_damage(saves):
    (saves / "checkpoint-4" / "notes.txt").write_text("my best run")
    assert opened(saves).newest_checkpoint() == str(saves / "checkpoint-4")


def test_a_second_damage_of_the_same_step_replaces_the_first(saves):
    (saves / "damaged-checkpoint-4").mkdir()
    (saves / "checkpoint-4" / "optimizer.pt").unlink()
    assert opened(saves).newest_checkpoint() == str(saves / "checkpoint-2")
    assert (saves / "damaged-checkpoint-4" / "scheduler.pt").exists()


def test_a_run_with_no_whole_checkpoint_is_refused_not_started_again(saves):
    for step, file in ((2, "optimizer.pt"), (4, "manifest.json")):
        (saves / f"checkpoint-{step}" / file).unlink()
    reported = (
        r"no checkpoint is complete \(checkpoint-4: manifest.json is missing; checkpoint-2: optimizer.pt is missing\)"
    )
    with pytest.raises(InputError, match=reported):
        opened(saves).newest_checkpoint()
    assert {"checkpoint-2", "checkpoint-4"} <= {path.name for path in saves.iterdir()}


def test_deepspeeds_state_and_ours_are_not_taken_for_each_other(saves):
    with pytest.raises(InputError, match="saved by no DeepSpeed on 1 process, this is DeepSpeed on 2 processes"):
        opened(saves).newest_checkpoint(world_size=2, deepspeed=True)
    for step in (2, 4):
        folder = saves / f"checkpoint-{step}"
        files = json.loads((folder / "manifest.json").read_text())["files"]
        (folder / "latest").touch()
        empty = {"size": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
        forge(folder, deepspeed=True, files=files | {"latest": empty})
    with pytest.raises(InputError, match="saved by DeepSpeed on 1 process, this is DeepSpeed on 2 processes"):
        opened(saves).newest_checkpoint(world_size=2, deepspeed=True)


def test_more_processes_may_go_on_without_deepspeed(saves):
    assert opened(saves).newest_checkpoint(world_size=2) == str(saves / "checkpoint-4")
