"""Reading and writing annotation files record by record: the same values and refusals as reading them whole."""

import gc
import hashlib
import json
import os
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts_visatb.data.stream import writing_records
from visatb import record_stream
from visatb.errors import InputError
from visatb.record_stream import stream_records
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
    monkeypatch.setattr(record_stream, "_BLOCK", 7)


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
        assert list(stream_records(tmp_path / name, again=True)) == records
        # ints stay ints and floats floats, to the last digit
        assert json.dumps(streamed) == json.dumps(records)


@pytest.mark.parametrize("bracket", ["[", ""])
def test_every_cut_of_a_file_is_refused_as_broken_json(tmp_path, narrow, bracket):
    record = json.dumps({"a": 'é"\\', "b": [-1.5e-3, True], "c": {"d": None}}, indent=1)
    text = f"{bracket}{record}" if bracket else f'{{"a": 1}}\n{record}'
    for end in range(len(text) - 1 if bracket else 10, len(text)):
        (tmp_path / "a.json").write_text(text[:end])
        assert "broken JSON at line " in message(stream_records, tmp_path / "a.json")


BROKEN = {
    b'{"a": 1} x': "broken JSON at line 2 column 10",
    b'{"a": tru}': "broken JSON at line 2 column 7",
    b'{"a" 1}': "broken JSON at line 2 column 6",
    b"{'a': 1}": "broken JSON at line 2 column 2",
    b'{"a": "\x01"}': "broken JSON at line 2 column 8",
    b'{"a": "\\x"}': "broken JSON at line 2 column 8",
    b'{"a": "\\ud800", "id": "x"}': "record 1 (id 'x'): line 2: a: contains a lone surrogate",
    b'{"b": {"a": [1, NaN]}, "id": "x"}': "record 1 (id 'x'): line 2: b.a[1]: NaN is not JSON",
    b'{"id": 3, "a": 1, "a": 2}': "record 1 (id 3): line 2: a: this key occurs twice in one object",
    b'{"a": 1' + b"0" * 5000 + b"}": "record 1: line 2: a: 1000",
    b'{"id": 3, "a": ' + b"[" * 101 + b"]" * 101 + b"}": "record 1 (id 3): line 2: a[0][0]",
    b'{"id": 3, "a": ' + b"[" * 100_000: "record 1: line 2: a[0][0]",
    b"5": "record 1 must be a JSON object, got '5'",
    b"[5, NaN]": "record 1: line 2: [1]: NaN is not JSON",
}


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("line", BROKEN)
def test_unsound_records_are_refused_by_record_line_and_field(tmp_path, narrow, line, lines):
    (tmp_path / "a.json").write_bytes(b'{"ok": 1}\n' + line if lines else b'[{"ok": 1},\n' + line + b"\n]")
    reported = message(stream_records, tmp_path / "a.json")
    assert reported == message(read_records, tmp_path / "a.json")
    assert f"a.json: {BROKEN[line]}" in reported and "\n" not in reported and len(reported) < 500


@pytest.mark.parametrize(
    ("data", "reported"),
    [
        (b"[]", "has no records"),
        (b" \n", "is empty"),
        (b'[{"a": 1},]', "broken JSON at line 1 column 11: Expecting value"),
        (b'[{"a": 1} {"a": 1}]', "broken JSON at line 1 column 11: Expecting ',' delimiter"),
        (b'{"a": 1},\n{"a": 1}', "broken JSON at line 1 column 9: Expecting value"),
        (b'[{"a": 1}] []', "broken JSON at line 1 column 12: Extra data"),
        (b'[{"a": "\xff"}]', "not UTF-8 at byte 8"),
        (b'{"a": 1}', "must be a list of records, got an object with the keys 'a'. Wrap"),
        (b'{"info": {}, "data": [{"id": 1}, {}]}', "is an object around a list: 'data' has 2 objects"),
        (b'{\n "mix": {"annotation": "a.json"}\n}', "names annotation files, give those"),
        (b"datasets:\n  - json_path: a.json\n", "is YAML, and must be"),
        (b"# a mix\n- a.json\n- b.json\n", "is YAML, and must be"),
        (b"id,image,text\n1,a.png,x\n", "starts with 'id,image,text"),
        (b"\x1f\x8b\x08", "is a gzip archive. Unpack it"),
        (b"PAR1\x15\x04", "is a Parquet table. Convert it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.yaml"])
def test_other_files_are_said_to_be_what_they_are(tmp_path, narrow, monkeypatch, data, reported, name):
    monkeypatch.setattr(record_stream, "_BLOCK", 64)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as error:
        list(stream_records(tmp_path / name))
    assert reported in str(error.value)


@pytest.mark.parametrize("name", ["a.json", "a.JSONL", "a.jsonl", "a.txt"])
@pytest.mark.parametrize(
    "text", ['{"id": 1}\n\n{"id": 2}\n', '[{"id": 1}, {"id": 2}]', '{\n "id": 1\n}\r\n{"id": 2}', '{"id": 1} {"id": 2}']
)
def test_lists_and_json_lines_are_recognised_by_their_content(tmp_path, narrow, name, text):
    (tmp_path / name).write_text(text)
    assert read_records(tmp_path / name) == [{"id": 1}, {"id": 2}]


def test_one_record_is_read_as_a_line_whatever_the_name(tmp_path):
    for name, record in (("a.json", {"conversations": [{"from": "human"}]}), ("a.JSONL", {"question_id": 1})):
        (tmp_path / name).write_text(json.dumps(record))
        assert read_records(tmp_path / name) == [record]


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL"])
def test_json_lines_are_written_for_their_suffix_in_any_case(tmp_path, name):
    with writing_records(tmp_path / name) as writer:
        writer.write({"a": 1})
        writer.write({"a": 2})
    assert (tmp_path / name).read_text() == '{"a": 1}\n{"a": 2}\n'


def test_reading_leaves_the_garbage_collector_as_it_was(tmp_path):
    (tmp_path / "a.json").write_text("[")
    for switch, enabled in ((gc.disable, False), (gc.enable, True)):
        switch()
        with pytest.raises(InputError):
            read_records(tmp_path / "a.json")
        assert gc.isenabled() is enabled


def test_missing_files_folders_and_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for name, reported in (
        ("none.json", "no such file"),
        (".", "not a regular file"),
        ("pipe.json", "not a regular file"),
    ):
        with pytest.raises(InputError, match=reported):
            list(stream_records(tmp_path / name))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_record_without_end_is_refused_before_memory_is_full(tmp_path, monkeypatch, name):
    monkeypatch.setattr(record_stream, "LONGEST_RECORD", 3 * 2**20)
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
