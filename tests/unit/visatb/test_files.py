"""Files that are complete or absent, and what is read from them."""

import errno
import fcntl
import os
import resource
import subprocess
import sys

import pytest

from visatb.errors import InputError
from visatb.files import read_json, read_text, refuse_unwritable, replacing, scratch_folder, write_json


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
    "outputs, message",
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
def test_an_unwritable_output_is_refused_before_any_work(tmp_path, monkeypatch, outputs, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "given.csv").touch()
    with pytest.raises(InputError, match=message):
        refuse_unwritable(outputs, ["given.csv", None])
    refuse_unwritable(["new.json", "folder/deep/er/new.json", None], ["given.csv"])
    assert sorted(os.listdir()) == ["folder", "given.csv"]


def test_a_folder_without_write_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write anywhere
    with pytest.raises(InputError, match="is not writable"):
        refuse_unwritable([tmp_path / "a" / "new.json"])


def test_a_file_is_flushed_then_renamed_and_readers_keep_the_old_one(tmp_path, monkeypatch):
    target, events = tmp_path / "a.json", []
    write_json(target, [1])
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, name=name, real=real: events.append(name) or real(*given))
    with open(target) as reader:
        write_json(target, [2])
        assert reader.read().split() == ["[", "1", "]"]
    assert (events, read_json(target)) == (["fsync", "replace", "fsync"], [2])


def test_a_full_disk_is_reported_with_the_file_that_was_to_be_written(tmp_path):
    target = tmp_path / "a.json"
    with pytest.raises(OSError) as error, replacing(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.filename == str(target) and os.listdir(tmp_path) == []
    with pytest.raises(OSError) as error, replacing(target):
        raise OSError(errno.ENOENT, "no such file", "another.json")
    assert error.value.filename == "another.json"
    with pytest.raises(ConnectionError) as error, replacing(target):
        raise ConnectionError("reset by peer")
    assert error.value.filename is None


def limited_to_a_block():
    """Any file of this process ends at 1 KiB, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


WRITERS = {
    "write_json": "from visatb.files import write_json; write_json('a.json', 'x' * 9999)",
    "records": "from scripts_visatb.data.stream import writing_records\n"
    "with writing_records('a.json') as w:\n for _ in range(999): w.write({'a': 'x' * 99})",
    "replies": "from eval.judge_client import ReplyFile; ReplyFile('a.json').add('k', 'x' * 9999)",
    "task log": "import torch\nfrom transformers_patch.task_log import TaskLog\n"
    "log = TaskLog([f'task {n}' for n in range(50)], 'a.json'); k = torch.ones(50)\n"
    "log.add(1.0, k, k, k.double(), k); log.write(1, 1.0, 1e-3, 1.0)",
    "projector": "import torch\nfrom visatb.files import replacing\n"
    "from transformers_patch.tensor_files import save_tensors\n"
    "with replacing('a.json') as part: save_tensors({'a': torch.zeros(9999)}, part)",
    "weights": "import torch\nfrom pathlib import Path\nfrom scripts_visatb.checkpoints.folders import write_weights\n"
    "write_weights({'a': torch.zeros(9999)}, {'a': 'a.json'}, Path('.'))",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_names_its_file_when_the_disk_takes_no_more(tmp_path, repository, writer):
    lines = "\n ".join(WRITERS[writer].split("\n"))
    code = f"from visatb.cli import run\ndef main():\n {lines}\nrun(main)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(repository), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=limited_to_a_block,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "a.json: " in done.stderr.splitlines()[-1] and "File too large" in done.stderr


def test_leftovers_of_killed_processes_are_removed_others_stay(tmp_path):
    target = tmp_path / "a[1].json"
    left = [tmp_path / f".a[1].json.{name}.part" for name in ("dead", "live")]
    other = tmp_path / ".b.json.dead.part"
    for path in (*left, other):
        path.write_text("half")
    with open(left[1], "rb+") as live:
        fcntl.flock(live, fcntl.LOCK_EX)
        with replacing(target) as outer:
            outer.write_text("outer")
            with replacing(target) as inner:  # two at a time leave each other alone
                inner.write_text("inner")
    assert target.read_text() == "outer"
    assert sorted(tmp_path.iterdir()) == sorted([target, left[1], other])


def test_a_scratch_folder_removes_what_is_left_and_is_one_at_a_time(tmp_path):
    (tmp_path / ".s.dead").mkdir()
    (tmp_path / ".s.dead" / "records").write_text("x")
    (tmp_path / "kept").mkdir()
    with scratch_folder(tmp_path, ".s.") as folder:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([folder.name, "kept"])
        with pytest.raises(InputError, match="another process is writing here"), scratch_folder(tmp_path, ".s."):
            pass
        assert folder.is_dir()
    assert os.listdir(tmp_path) == ["kept"]
