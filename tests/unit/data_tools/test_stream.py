"""Reading and writing annotation files record by record: the same values and refusals as reading them whole."""

import hashlib
import json
import os
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts_visatb.data import stream
from scripts_visatb.data.stream import stream_records, writing_records
from visatb.errors import InputError
from visatb.records import read_records

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=False, allow_infinity=False)
    # Not lone surrogates, which are refused; `{`, `]`, quotes and escapes are what a scanner may trip over.
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.text('{}[],:"\\ \n\tn\u2028é猫', max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab"\\é', max_size=3), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.lists(st.dictionaries(st.text('ab"}{', max_size=3), VALUES, max_size=4), min_size=1, max_size=6)


def message(function, *args) -> str | None:
    try:
        list(function(*args))
    except InputError as error:
        return str(error)
    return None


@pytest.fixture
def narrow(monkeypatch):
    """A window of a few bytes, so that everything is cut somewhere."""
    monkeypatch.setattr(stream, "_BLOCK", 7)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RECORDS, st.sampled_from([None, 1, "\t"]), st.booleans(), st.booleans())
def test_records_are_those_of_reading_the_file_whole(tmp_path, narrow, records, indent, ascii_only, bom):
    text = json.dumps(records, indent=indent, ensure_ascii=ascii_only)
    (tmp_path / "a.json").write_text(text, encoding="utf-8-sig" if bom else "utf-8", newline="\r\n")
    lines = "\n\n".join(json.dumps(record, ensure_ascii=ascii_only) for record in records)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    for name in ("a.json", "a.jsonl"):
        streamed = list(stream_records(tmp_path / name))
        assert streamed == read_records(tmp_path / name) == records
        # ints stay ints and floats floats, to the last digit
        assert json.dumps(streamed) == json.dumps(records)


def test_every_cut_of_a_file_is_refused_as_whole_reading_refuses_it(tmp_path, narrow):
    text = json.dumps([{"a": 'é"\\', "b": [-1.5e-3, True]}, {"c": {"d": None}}], indent=1)
    for end in range(len(text)):
        (tmp_path / "a.json").write_text(text[:end])
        # the place may be told before or after blanks
        told, whole = (message(read, tmp_path / "a.json") for read in (stream_records, read_records))
        assert told.split(": ")[2:] == whole.split(": ")[2:]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    "line",
    [
        b'{"a": 1} x',
        b'{"a": tru}',
        b'{"a" 1}',
        b"{'a': 1}",
        b'{"a": "\x01"}',
        b'{"a": "\\x"}',
        b'{"a": "\\ud800"}',
        b'{"a": 1' + b"0" * 5000 + b"}",
    ],
)
def test_broken_json_is_refused_with_its_place(tmp_path, narrow, name, line):
    data = b'{"ok": 1}\n' + line if name.endswith("l") else b'[{"ok": 1},\n ' + line + b"\n]"
    (tmp_path / name).write_bytes(data)
    told = message(stream_records, tmp_path / name)
    assert "\n" not in told
    whole = message(read_records, tmp_path / name)
    place = "surrogate" if "surrogate" in whole else "Exceeds" if "Exceeds" in whole else None
    assert place in told if place else told == whole


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'[{"a": NaN}]', "line 1: NaN is not JSON"),
        (b'[{"a": 1}, 5]', r"record 1 must be a JSON object, got '5\]'"),
        (b'{"a": 1}', "must be a JSON list of records, starts with '{'"),
        (b"[]", "holds no record"),
        (b" \n", "broken JSON at line 2 column 1: Expecting value"),
        (b'[{"a": 1},]', "broken JSON at line 1 column 11: Expecting value"),
        (b'[{"a": 1}] []', "broken JSON at line 1 column 12: Extra data"),
        (b'[{"a": "\xff"}]', "not UTF-8 at byte 8"),
        (b'[{"a": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_other_shapes_are_refused(tmp_path, narrow, data, told):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(InputError, match=told):
        list(stream_records(tmp_path / "a.json"))


def test_missing_files_folders_and_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for name, told in (("none.json", "no such file"), (".", "not a regular file"), ("pipe.json", "not a regular file")):
        with pytest.raises(InputError, match=told):
            list(stream_records(tmp_path / name))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_record_without_end_is_refused_before_memory_is_full(tmp_path, monkeypatch, name):
    monkeypatch.setattr(stream, "LONGEST_RECORD", 3 * 2**20)
    start = '{"a": "' if name.endswith("l") else '[{"a": "'
    (tmp_path / name).write_text(start + "x" * 9 * 2**20)
    with pytest.raises(InputError, match="characters"):
        list(stream_records(tmp_path / name))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_memory_is_that_of_a_few_records(tmp_path, name):
    record = {"value": "word " * 200}
    with writing_records(tmp_path / name) as writer:
        for _ in range(20_000):
            writer.write(record)
    assert (tmp_path / name).stat().st_size > 19 * 2**20
    progress = []
    tracemalloc.start()
    count = sum(1 for _ in stream_records(tmp_path / name, progress.append))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert sum(progress) == (tmp_path / name).stat().st_size
    assert peak < 8 * 2**20


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_writing_is_whole_or_not_at_all(tmp_path, name):
    records = [{"a": "é\n"}, {"b": [1, 2.5]}]
    with writing_records(tmp_path / name) as writer:
        for record in records:
            writer.write(record)
    assert read_records(tmp_path / name) == records
    assert writer.count == 2
    assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == writer.sha256
    before = (tmp_path / name).read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"), writing_records(tmp_path / name) as writer:
        writer.write({"a": float("nan")})
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before
