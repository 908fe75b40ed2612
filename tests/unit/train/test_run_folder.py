"""The output folder of a run: owner, lock, resuming."""

import pytest

from llava.train.run_folder import RunFolder
from visatb.errors import InputError


def run_once(folder, fingerprint):
    """A run that began and ended without finishing."""
    run = RunFolder(str(folder), fingerprint)
    run.begin()
    run._lock.close()


def test_a_start_that_failed_before_the_model_was_there_claims_nothing(tmp_path):
    RunFolder(str(tmp_path), {"model": "typo"})._lock.close()
    assert not RunFolder(str(tmp_path), {"model": "right"}).finished


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds something else"):
        RunFolder(str(tmp_path), {})
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_run_is_refused_with_the_keys_that_differ(tmp_path):
    run_once(tmp_path, {"lr": 1, "seed": 0})
    with pytest.raises(InputError, match=r"\(lr 1 -> 2; tasks None -> 3\)"):
        RunFolder(str(tmp_path), {"lr": 2, "seed": 0, "tasks": 3})


def test_other_files_behind_the_same_names_are_told_without_their_hashes(tmp_path):
    run_once(tmp_path, {"vision_tower_content": {"config.json": "46783b"}, "data": "aa"})
    with pytest.raises(InputError, match=r"\(the records of data_path; the files of vision_tower\)"):
        RunFolder(str(tmp_path), {"vision_tower_content": {"config.json": "b1"}, "data": "bb"})


def test_overwriting_forgets_the_other_run(tmp_path):
    run_once(tmp_path, {"lr": 1})
    (tmp_path / "checkpoint-5").mkdir()
    for name in ("model.safetensors", "train_log.jsonl", "mm_projector.bin"):
        (tmp_path / name).write_text("of the other run")
    folder = RunFolder(str(tmp_path), {"lr": 2}, overwrite=True)
    assert folder.newest_checkpoint() is None and not folder.finished
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_a_kill_before_the_first_write_does_not_make_the_folder_somebody_elses(tmp_path):
    for name in (".lock", ".visatb_run.json.abc.part"):
        (tmp_path / name).write_text("")
    assert not RunFolder(str(tmp_path), {"lr": 1}).finished


def test_the_same_run_goes_on_from_its_newest_checkpoint(tmp_path):
    run_once(tmp_path, {"lr": 1})
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-x", ".saving"):
        (tmp_path / name).mkdir()
    for name in ("trainer_state.json", "scheduler.pt", "optimizer.pt"):
        (tmp_path / "checkpoint-10" / name).touch()
    folder = RunFolder(str(tmp_path), {"lr": 1})
    assert folder.newest_checkpoint() == str(tmp_path / "checkpoint-10")
    assert not (tmp_path / ".saving").exists()


@pytest.mark.parametrize("lost", ["trainer_state.json", "scheduler.pt", "optimizer.pt"])
def test_a_checkpoint_that_has_lost_a_file_is_refused_instead_of_resumed_without_it(tmp_path, lost):
    folder = RunFolder(str(tmp_path), {"lr": 1})
    (tmp_path / "checkpoint-10").mkdir()
    for name in {"trainer_state.json", "scheduler.pt", "optimizer.pt"} - {lost}:
        (tmp_path / "checkpoint-10" / name).touch()
    with pytest.raises(InputError, match=rf"checkpoint-10: has lost {lost}. Delete this folder"):
        folder.newest_checkpoint()


def test_a_finished_run_is_known_as_finished(tmp_path):
    folder = RunFolder(str(tmp_path), {"lr": 1})
    folder.finish(steps=3)
    folder._lock.close()
    assert RunFolder(str(tmp_path), {"lr": 1}).finished


def test_two_processes_do_not_write_one_folder(tmp_path):
    first = RunFolder(str(tmp_path), {"lr": 1})
    with pytest.raises(InputError, match="another process is training into this folder"):
        RunFolder(str(tmp_path), {"lr": 1})
    first._lock.close()


def test_a_file_is_no_output_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="output_dir must be a folder"):
        RunFolder(str(tmp_path / "file"), {})
