"""The record index: the same records as the file, however it is written; damage, change and hostile caches."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visatb import record_index
from visatb.array_cache import VARIABLE
from visatb.errors import InputError
from visatb.record_index import columns_of, open_index
from visatb.records import read_records


def record(n, question="What?", answer="Red.", **fields):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": n, "task": "VQA", "conversations": turns} | fields


RECORDS = [
    record(0, "<image>\nWie heißt das? 🦊", 'Fuchs\n"quoted" \\ und mehr', image="a/b.png"),
    record(1, "", "two words", task="Chat"),
    record(2, "<image><image>", " ", image=["a/b.png", "c.png"]),
    record("x" * 50, "long " * 300, task="Grounding"),
]


def written(path: Path, records, style: str) -> Path:
    if style == "lines":
        text = "\n".join(json.dumps(r, ensure_ascii=False) for r in records) + "\n"
    elif style == "ascii":
        text = json.dumps(records)
    else:
        text = json.dumps(records, ensure_ascii=False, indent=2)
    data = text.encode()
    if style == "crlf":
        data = data.replace(b"\n", b"\r\n")
    path.write_bytes((b"\xef\xbb\xbf" if style == "mark" else b"") + data)
    return path


@pytest.fixture(autouse=True)
def beside_the_file(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def made(monkeypatch):
    """How often a file was parsed."""
    count, make = [], record_index._made
    monkeypatch.setattr(record_index, "_made", lambda *given: count.append(1) or make(*given))
    return count


@pytest.mark.parametrize("style", ["lines", "ascii", "indented", "crlf", "mark"])
def test_an_index_gives_the_records_of_the_file_in_any_style(tmp_path, made, style):
    path = written(tmp_path / "train.json", RECORDS * 500, style)  # ids may repeat; several windows of the stream
    for _ in range(2):
        index = open_index(path)
        assert list(index) == read_records(path) == RECORDS * 500
        assert index[-1] == RECORDS[-1] and len(index) == 2000
        assert index.images == [("a/b.png", 0), ("c.png", 2)]
    assert len(made) == 1  # the second was kept
    again = pickle.loads(pickle.dumps(index))
    assert again[1] == RECORDS[1] and again.columns.tasks == ("VQA", "Chat", "Grounding")


def test_columns_are_those_of_the_records_by_hand():
    columns = columns_of(RECORDS)
    assert columns.images_N.tolist() == [1, 0, 2, 0]
    assert columns.words_N.tolist() == [5 + 5, 2, 1, 301]
    assert columns.characters_N.tolist()[1:] == [9, 1, 1504]
    assert columns.empty_N.tolist() == [0, 1, 2, 0]  # "<image><image>" is a question, " " is no answer
    assert [columns.tasks[task] for task in columns.task_N] == ["VQA", "Chat", "VQA", "Grounding"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=5), st.sampled_from(["lines", "ascii", "crlf", "mark"]))
def test_any_text_is_found_by_its_bytes(tmp_path_factory, texts, style):
    folder = tmp_path_factory.mktemp("texts")
    records = [record(n, text.replace("<image>", "")) for n, text in enumerate(texts)]
    path = written(folder / "train.json", records, style)
    assert list(open_index(path)) == read_records(path)


def test_a_changed_file_is_indexed_again_and_noticed_while_it_is_read(tmp_path, made):
    path = written(tmp_path / "train.json", RECORDS, "lines")
    index = open_index(path)
    assert index[0] == RECORDS[0]
    text = path.read_bytes()
    path.write_bytes(text.replace(b"two words", b"TWO WORDS"))  # in place: same size
    with pytest.raises(InputError, match="record 1 has changed since the file was checked"):
        index[1]
    assert index[0] == RECORDS[0]
    assert open_index(path)[1]["conversations"][1]["value"] == "TWO WORDS" and len(made) == 2
    path.unlink()
    with pytest.raises(InputError, match="can no longer be read"):
        pickle.loads(pickle.dumps(index))[0]


def _truncated(file):
    file.write_bytes(file.read_bytes()[:-40])


def _forged(change):
    def forge(file):
        with np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
        np.savez(file, **arrays | change(arrays))

    return forge


DAMAGE = {
    "truncated": _truncated,
    "empty": lambda file: file.write_bytes(b""),
    "other": lambda file: file.write_text("text"),
    "pickled": lambda file: np.savez(file, key=np.array([{}], dtype=object)),
    "shorter": _forged(lambda arrays: {"crc_N": arrays["crc_N"][:1]}),
    "floats": _forged(lambda arrays: {"words_N": arrays["words_N"] * 1.5}),
    "tasks": _forged(lambda arrays: {"task_N": arrays["task_N"] + 7}),
    "images": _forged(lambda arrays: {"images": np.frombuffer(b'[["a.png", 99]]', np.uint8)}),
    "member": lambda file: zipfile.ZipFile(file, "w").close(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_forged_index_is_made_again(tmp_path, made, damage):
    path = written(tmp_path / "train.json", RECORDS, "lines")
    open_index(path)
    DAMAGE[damage](tmp_path / "train.json.index.npz")
    assert list(open_index(path)) == RECORDS and len(made) == 2
    assert list(open_index(path)) == RECORDS and len(made) == 2


def test_a_forged_place_is_refused_by_its_checksum(tmp_path):
    path = written(tmp_path / "train.json", RECORDS, "lines")
    open_index(path)
    shift = _forged(lambda arrays: {"start_N": arrays["start_N"] - 1, "end_N": arrays["end_N"] + 10**9})
    shift(tmp_path / "train.json.index.npz")
    with pytest.raises(InputError, match="has changed since"):
        open_index(path)[1]


def test_another_place_holds_the_index_where_the_folder_cannot(tmp_path, monkeypatch, made, capsys):
    path = written(tmp_path / "data" / "train.json", RECORDS, "lines") if (tmp_path / "data").mkdir() is None else None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("visatb.array_cache.os.access", lambda *_: False)
    for _ in range(2):
        assert list(open_index(path)) == RECORDS
    assert len(made) == 1 and [p.name for p in path.parent.iterdir()] == ["train.json"]
    assert len(list((tmp_path / "cache" / "visatb").glob("*-train.json.index.npz"))) == 1
    monkeypatch.setenv(VARIABLE, str(tmp_path / "own"))
    open_index(path)
    assert len(made) == 2 and len(list((tmp_path / "own").iterdir())) == 1
    shutil.rmtree(tmp_path / "own")
    (tmp_path / "own").write_text("a file, where no folder can be made")
    assert list(open_index(path)) == RECORDS
    assert "cannot be written" in capsys.readouterr().err


def test_further_rules_are_checked_and_kept_apart(tmp_path, made):
    path = written(tmp_path / "train.json", RECORDS, "lines")
    open_index(path)

    def check(found, where):
        if found["task"] == "Chat":
            raise InputError(f"{where}: no chats here.")

    with pytest.raises(InputError, match=r"train.json: record 1 \(id 1\): no chats here"):
        open_index(path, "no chats", check)
    assert len(made) == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1]", '[{"id": 1}]', '[{"id": NaN}]', "\x1f"])
def test_an_invalid_file_is_refused_as_by_reading_and_leaves_nothing(tmp_path, text):
    path = tmp_path / "train.json"
    path.write_text(text)
    with pytest.raises(InputError, match="train.json"):
        open_index(path)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="absent.json: no such file"):
        open_index(tmp_path / "absent.json")
