"""Flags that are declared by the parameters of a function."""

from typing import Literal

import pytest

from eval.command import add_flags
from visatb.cli import ArgumentParser


def work(
    source: str, kind: Literal["one", "two"] = "one", times: int = 2, plain: bool = False, pair: list | None = None
):
    pass


TEXTS = {
    "source": ("where from", "-s", "--source", "--src"),
    "kind": "which",
    "times": "how often",
    "plain": "without more",
    "pair": ("two files", "FIRST", "SECOND"),
}


def parsed(*words):
    parser = ArgumentParser()
    add_flags(parser, work, TEXTS)
    return vars(parser.parse_args(words))


def test_defaults_types_and_names_are_those_of_the_parameters():
    assert parsed("--src", "a") == {"source": "a", "kind": "one", "times": 2, "plain": False, "pair": None}
    found = parsed("-s", "a", "--kind", "two", "--times", "3", "--plain", "--pair", "x", "y")
    assert found == {"source": "a", "kind": "two", "times": 3, "plain": True, "pair": ["x", "y"]}


@pytest.mark.parametrize("words", [[], ["-s", "a", "--kind", "three"], ["-s", "a", "--times", "x"], ["--pair", "x"]])
def test_what_the_parameters_do_not_take_ends_with_code_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(*words)
    assert ended.value.code == 2 and capsys.readouterr().err.startswith("error: ")
