"""YAML that is read with care: what PyYAML would take silently or with a traceback."""

import pytest

from visatb.errors import InputError
from visatb.yaml_files import read_yaml


def read(folder, text: str):
    (folder / "x.yaml").write_text(text)
    return read_yaml(folder / "x.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: key 'a' occurs twice, line 1 has it"),
        ("a: {x: 1, y: 2, 'x': 3}\n", "line 1: key 'x' occurs twice"),
        ("a:\n  - {name: n}\n  - b: 1\n    b: 1\n", "line 4: key 'b' occurs twice, line 3 has it"),
        ("? {a: 1, a: 2}\n: x\n", "line 1: key 'a' occurs twice"),
    ],
)
def test_a_key_that_occurs_twice_does_not_silently_keep_its_last_value(tmp_path, text, message):
    with pytest.raises(InputError, match=f"x.yaml: {message}"):
        read(tmp_path, text)


def test_keys_that_a_merge_brings_in_again_are_no_doubled_ones(tmp_path):
    text = "base: &base {x: 1, y: 2}\np: {a: &a {<<: *base, x: 3}}\nb: {<<: *a, y: 4}\n1: one\n'1': text\n"
    content = read(tmp_path, text)
    assert content["p"]["a"] == {"x": 3, "y": 2} and content["b"] == {"x": 3, "y": 4}
    assert content[1] == "one" and content["1"] == "text"


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "a: 2024-13-01",
        "a: !!bool maybe",
        "a: !!int ''",
        "a: !!timestamp soon",
        "{[a]: 1}",
        "a: !!python/object/apply:os.getcwd []",
        "[" * 5000,
        "a: *nowhere",
        "\x01",
    ],
)
def test_yaml_errors_are_reported_in_one_line(tmp_path, text):
    with pytest.raises(InputError, match="x.yaml: broken YAML: .+ Fix the file") as refusal:
        read(tmp_path, text)
    assert "\n" not in str(refusal.value)
