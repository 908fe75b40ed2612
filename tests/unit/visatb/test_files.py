"""Files that are complete or absent, and what is read from them."""

import os

import pytest

from visatb.errors import InputError
from visatb.files import read_json, read_text, refuse_unwritable, replacing, write_json


def test_a_failure_while_writing_leaves_the_old_file_and_no_part(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, [1])
    with pytest.raises(RuntimeError), replacing(target) as part:
        part.write_text("half")
        raise RuntimeError
    assert read_json(target) == [1] and os.listdir(tmp_path) == ["a.json"]


def test_not_a_number_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert os.listdir(tmp_path) == []


def test_written_files_have_the_usual_mode(tmp_path):
    write_json(tmp_path / "a.json", 1)
    plain = tmp_path / "b"
    plain.touch()
    assert (tmp_path / "a.json").stat().st_mode == plain.stat().st_mode


def test_other_encodings_and_missing_files_are_refused(tmp_path):
    (tmp_path / "latin.json").write_bytes("é".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8 at byte 0"):
        read_text(tmp_path / "latin.json")
    with pytest.raises(InputError, match="no such file"):
        read_text(tmp_path / "absent.json")
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        read_text(tmp_path / ("x" * 300))


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        read_text(tmp_path / "pipe")


@pytest.mark.parametrize(
    "outputs, told",
    [
        (["folder"], "must be a file, not a folder"),
        ([""], "must be a file, not a folder"),
        (["given.csv"], "given twice"),
        (["folder/../given.csv"], "given twice"),
        (["new.json", "new.json"], "given twice"),
        (["given.csv/new.json"], "given.csv is no folder"),
        (["folder/new.json", None, "given.csv/a/b/new.json"], "given.csv is no folder"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_made(tmp_path, monkeypatch, outputs, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "given.csv").touch()
    with pytest.raises(InputError, match=told):
        refuse_unwritable(outputs, ["given.csv", None])
    refuse_unwritable(["new.json", "folder/deep/er/new.json", None], ["given.csv"])
    assert sorted(os.listdir()) == ["folder", "given.csv"]


def test_a_folder_without_write_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write anywhere
    with pytest.raises(InputError, match="is not writable"):
        refuse_unwritable([tmp_path / "a" / "new.json"])


def test_a_file_is_flushed_and_then_renamed_so_that_its_readers_keep_the_old_one(tmp_path, monkeypatch):
    target, events = tmp_path / "a.json", []
    write_json(target, [1])
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, name=name, real=real: events.append(name) or real(*given))
    with open(target) as reader:
        write_json(target, [2])
        assert reader.read().split() == ["[", "1", "]"]
    assert (events, read_json(target)) == (["fsync", "replace", "fsync"], [2])
