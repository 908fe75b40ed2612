"""JSON read with care: what is refused, and the line and field that the message names."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visatb.errors import InputError
from visatb.files import read_json
from visatb.json_text import MAX_DEPTH, parse_json

SOUND = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=False, allow_infinity=False)
    # Brackets, quotation marks and escapes in strings are what a scanner may trip over.
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.text('{}[],:"\\u \n', max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab"\\é', max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "text, reported",
    [
        ('[{"id": 1},\n {"id" 2}]', "broken JSON at line 2 column 8"),
        ("", "broken JSON at line 1 column 1"),
        (" 1 2", "broken JSON at line 1 column 4: Extra data"),
        (
            '{"id": 1}\n{"id": 2}\n',
            "broken JSON at line 2 column 1: Extra data; the file looks like JSON Lines, expected",
        ),
        ('{"id": 1} {"id": 2}', "broken JSON at line 1 column 11: Extra data. Correct"),
        ("[1, NaN]", "[1]: NaN is not JSON"),
        ('{"NaN": [-Infinity]}', "NaN[0]: -Infinity is not JSON"),
        ('{"a": "NaN",\n "b": {"c": 1e999}}', "line 2: b.c: 1e999 is too large for a number"),
        ("-" + "9" * 310, "is too large for a number"),
        ("9" * 5000, "is too large for a number"),
        (r'{"a": ["x", {"b c": "\ud800"}]}', "a[1]['b c']: contains a lone surrogate"),
        (r'{"a": 1, "\udfff": 1}', "x.json: contains a lone surrogate"),
        ('{"a": 1,\n"b": {"a": [], "c": 1,\n"a": 2}}', "line 3: b.a: this key occurs twice in one object"),
        (r'{"a": 1, "\u0061": 1}', "a: this key occurs twice"),
        ("[" * 100_000, "[0][0][0][0][0][0][0][0]...: JSON nested too deeply"),
        ('{"a":' * 986 + "1" + "}" * 986, "JSON nested too deeply"),
    ],
)
def test_unsound_json_is_refused_with_file_line_and_field(tmp_path, text, reported):
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(InputError, match="x.json") as error:
        read_json(file)
    assert reported in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a": ', "}"), ('[{"a": ', "}]")])
def test_one_depth_is_the_limit_wherever_the_reader_is_called(opening, closing):
    levels = opening.count("[") + opening.count("{")

    def read(depth: int, frames: int):
        if frames:
            return read(depth, frames - 1)
        return parse_json(opening * (depth // levels) + "1" + closing * (depth // levels), "x")

    for frames in (0, 300, 700):
        assert read(MAX_DEPTH, frames)
        with pytest.raises(InputError, match="nested too deeply"):
            read(MAX_DEPTH + levels, frames)


def test_many_brackets_that_are_not_nested_are_read():
    value = [[], {"a": []}] * 300 + ["[" * 300]
    assert parse_json(json.dumps(value), "x") == value
    assert parse_json(json.dumps("{" * 300), "x") == "{" * 300


def test_paired_surrogates_and_byte_order_mark_are_read(tmp_path):
    file = tmp_path / "x.json"
    file.write_bytes(b"\xef\xbb\xbf" + rb'["\ud83d\ude00"]')
    assert read_json(file) == ["\U0001f600"]


@settings(max_examples=200)
@given(SOUND, st.booleans())
def test_sound_json_is_read_as_python_reads_it(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert json.dumps(parse_json(text, "x")) == json.dumps(json.loads(text))


@settings(max_examples=200)
@given(st.text(max_size=60) | st.text('{}[],:"\\ud8aNI1e9. \n', max_size=40))
def test_any_text_is_parsed_or_refused_cleanly(text):
    try:
        parse_json(text, "x")
    except InputError as error:
        assert "\n" not in str(error).replace("\\n", "")
