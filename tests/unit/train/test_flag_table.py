"""The training's parser is built without transformers, and is the one that transformers would build."""

from argparse import ArgumentTypeError

import pytest
from transformers import HfArgumentParser

from llava.train.arguments import DataArguments, ModelArguments, TrainingArguments, make_parser, parse_flags
from llava.train.flags import FLAG_TABLE
from tests import transformers_flags
from visatb.errors import InputError


def described(parser) -> dict[str, tuple]:
    """Option -> all that decides how its value is read; the type as what it makes of three words."""
    found = {}
    for action in parser._actions:
        choices = action.choices and list(action.choices)
        shape = (action.dest, action.nargs, action.const, action.default, choices, action.required)
        found |= {
            option: (*shape, *[made(action, word) for word in ("7", "true", "x")]) for option in action.option_strings
        }
    return found


def made(action, word):
    """What an option makes of a word: of its own choices, a choice."""
    try:
        return str(action.type(word)) if callable(action.type) else word
    except (ArgumentTypeError, TypeError, ValueError):
        return "refused"


def test_the_table_is_what_transformers_says():
    assert FLAG_TABLE.read_text() == transformers_flags.text(), "run python -m tests.transformers_flags"


def test_every_flag_reads_its_value_as_transformers_parser_does():
    theirs = described(HfArgumentParser((ModelArguments, DataArguments, TrainingArguments)))
    ours = described(make_parser())
    # A list of --debug's own names, which transformers' type refuses and ours leaves to its class.
    differ = {option for option in theirs.keys() | ours.keys() if theirs.get(option) != ours.get(option)}
    assert differ <= {"--debug"} and len(theirs) > 140


@pytest.mark.parametrize("word", ["maybe", "", "2"])
def test_a_truth_value_that_is_neither_is_refused_by_its_flag(word):
    with pytest.raises(InputError, match="argument --lora_enable: must be True or False, got '"):
        parse_flags(["--model_name_or_path", "m", "--data_path", "d", "--output_dir", "o", f"--lora_enable={word}"])


def test_help_shows_defaults_and_names_transformers_flags(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_flags(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "--lora_r" in text and "LoRA rank. (default: 64)" in text
    assert "--warmup_ratio" in text and "float (default: 0.0)" in text and "{no,steps,epoch}" in text
