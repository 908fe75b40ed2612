"""Files that are complete or absent, and careful JSON."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visatb.errors import InputError
from visatb.files import parse_json, read_json, read_text, replacing, write_json


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


@pytest.mark.parametrize(
    "text, told",
    [
        ('[{"id": 1},\n {"id" 2}]', "line 2 column 8"),
        ("[1, NaN]", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        (r'["\ud800"]', "lone surrogate"),
        ("", "line 1 column 1"),
        ("9" * 5000, "Write an ordinary number"),
    ],
)
def test_broken_json_is_refused_with_file_and_place(tmp_path, text, told):
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(InputError, match="x.json") as error:
        read_json(file)
    assert told in str(error.value)


def test_paired_surrogates_and_byte_order_mark_are_read(tmp_path):
    file = tmp_path / "x.json"
    file.write_bytes(b"\xef\xbb\xbf" + rb'["\ud83d\ude00"]')
    assert read_json(file) == ["\U0001f600"]


def test_other_encodings_and_missing_files_are_refused(tmp_path):
    (tmp_path / "latin.json").write_bytes("é".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8 at byte 0"):
        read_text(tmp_path / "latin.json")
    with pytest.raises(InputError, match="no such file"):
        read_text(tmp_path / "absent.json")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        read_text(tmp_path / "pipe")


@settings(max_examples=200)
@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused_cleanly(text):
    try:
        parse_json(text, "x")
    except InputError as error:
        assert "\n" not in str(error).replace("\\n", "")
