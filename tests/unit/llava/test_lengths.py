"""Lengths of records without tokenising all of them."""

import pytest

from llava.conversation import conv_templates
from llava.data.collator import positions
from llava.data.dataset import SupervisedDataset
from llava.data.lengths import estimated_positions
from visatb.record_index import columns_of


@pytest.fixture
def dataset(records, tokenizer, processor, tiny_dataset):
    many = [record | {"id": n} for n, record in enumerate(records * 4)]
    return SupervisedDataset(many, tokenizer, conv_templates["v1"], None, processor, tiny_dataset.parent / "images")


def test_lengths_are_close_and_images_count_with_their_patches(dataset):
    exact = [positions(dataset.encode(n)["input_ids"], 16) for n in range(len(dataset))]
    found = estimated_positions(dataset, 512, 16)
    assert all(isinstance(length, int) for length in found)
    assert sum(found) == pytest.approx(sum(exact), rel=0.02)
    assert max(abs(a - b) / b for a, b in zip(found, exact, strict=True)) < 0.25
    wider = estimated_positions(dataset, 10_000, 1016)
    assert [b - a for a, b in zip(found, wider, strict=True)] == [
        1000 * ("image" in record) for record in dataset.records
    ]


def test_no_length_is_above_the_limit(dataset):
    assert max(estimated_positions(dataset, 30, 16)) == 30


def test_records_of_one_length_have_that_length(dataset):
    dataset.records = [dataset.records[0]] * 3
    dataset.columns = columns_of(dataset.records)
    exact = positions(dataset.encode(0)["input_ids"], 16)
    assert estimated_positions(dataset, 512, 16) == [exact] * 3
