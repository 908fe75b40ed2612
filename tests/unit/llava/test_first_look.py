"""What the start of a training reports of its samples, beside what `test_data_check.py` compares with the check."""

from types import SimpleNamespace

import pytest

from llava.conversation import conv_templates
from llava.data.dataset import SupervisedDataset
from llava.data.first_look import look_at_samples, model_positions, weight_without_effect
from visatb.record_index import columns_of


def record(*texts):
    return {"conversations": [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]}


@pytest.fixture
def look(tokenizer, capsys):
    """The lines that are reported of records, for a model of 512 positions."""

    def look(records, max_length=2048, is_first=True, **config):
        dataset = SupervisedDataset(records, tokenizer, conv_templates["v1"], None, source="a.json")
        config = SimpleNamespace(**{"max_position_embeddings": 512, "rope_scaling": None} | config)
        look_at_samples(dataset, ["all"], max_length, 16, config, is_first)
        return capsys.readouterr().err.splitlines()

    return look


def test_sound_records_bring_no_warning(look):
    assert look([record("One?", "red")] * 3) == []


def test_empty_turns_are_named_once_by_the_first_process(look):
    records = [record("One?", "red")] * 9 + [record("One?", "", "Two?", "red"), record("", "red")]
    (line,) = look(records)
    expected = "records with empty turns: 1 with an empty answer and 1 with an empty question, the first is record 9. "
    assert line == f"warning: a.json: {expected}Empty answers are not supervised."
    assert look(records, is_first=False) == []


def test_the_longest_of_many_samples_is_named_with_both_numbers(look):
    records = [record("One?", "red")] * 2500
    records[1777] = record("One?", "red " * 500)
    (line,) = look(records, max_length=4096)
    assert "a.json: record 1777: the longest sample takes " in line and "supports 512" in line
    assert look(records, max_length=512) == []
    assert look(records, max_length=4096, rope_scaling={"type": "linear", "factor": 4.0}) == []
    assert look(records, max_length=4096, max_position_embeddings=None) == []
    (line,) = look(records, max_length=600)
    assert "takes 600 positions" in line


@pytest.mark.parametrize(
    "config, positions",
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 4096, "rope_scaling": {"factor": "x"}}, 4096),
        ({"max_position_embeddings": "x"}, None),
        ({}, None),
    ],
)
def test_scaled_rotary_embeddings_count_as_the_positions_they_give(config, positions):
    assert model_positions(config) == positions


def test_a_task_that_is_alone_in_its_modality_is_named():
    with_image = [record("One?", "red") | {"image": "a.png", "task": task} for task in ("VQA", "Caption")]
    text = [record("One?", "red") | {"task": task} for task in ("Chat", "Code")]

    def found(records, tasks):
        return weight_without_effect(columns_of(records), tasks)

    assert "All are of task Chat" in found([*with_image, text[0]], ["VQA", "Caption", "Chat"])
    assert "records with images" in found([with_image[0], *text], ["VQA", "Chat", "Code"])
    assert found([*with_image, *text], ["VQA", "Caption", "Chat", "Code"]) is None
    assert found(with_image, ["VQA", "Caption"]) is None and found(text[:1], ["Chat"]) is None
