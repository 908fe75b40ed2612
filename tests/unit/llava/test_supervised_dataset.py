"""Samples, bad images and settings of the training set."""

import pickle
import shutil

import pytest
import torch
from torch.utils.data import DataLoader

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.data.collator import SupervisedCollator
from llava.data.dataset import SupervisedDataset
from visatb.errors import InputError

TASK_IDS = {"SceneCaption": 0, "ShapeVQA": 1, "Grounding": 2, "Chat": 3}


@pytest.fixture
def make(tokenizer, processor, tiny_dataset, records):
    def make(records=records, folder=tiny_dataset.parent / "images", **settings):
        arguments = {"image_processor": processor, "image_folder": folder} | settings
        return SupervisedDataset(records, tokenizer, conv_templates["v1"], TASK_IDS, **arguments)

    return make


@pytest.fixture
def broken_folder(tiny_dataset, tmp_path):
    def broken(*names):
        folder = tmp_path / "images"
        shutil.copytree(tiny_dataset.parent / "images", folder)
        for name in names:
            (folder / name).write_bytes(b"not an image")
        return folder

    return broken


def test_a_sample_has_its_parts(make, records):
    dataset = make()
    assert len(dataset) == len(records)
    for n, record in enumerate(records):
        sample = dataset[n]
        assert sample["task_id"] == TASK_IDS[record["task"]] and sample["record_id"] == record["id"]
        assert sample["input_ids"].dtype == sample["labels"].dtype == torch.long
        assert (sample["labels"] != IGNORE_INDEX).any()
        if "image" in record:
            assert sample["images"].shape == (1, 3, 56, 56)
            assert (sample["input_ids"] == IMAGE_TOKEN_INDEX).sum() == 1
        else:
            assert sample["images"] is None and IMAGE_TOKEN_INDEX not in sample["input_ids"]


def test_without_task_names_every_record_is_of_task_0(tokenizer, processor, tiny_dataset, records):
    dataset = SupervisedDataset(
        records, tokenizer, conv_templates["v1"], None, processor, tiny_dataset.parent / "images"
    )
    assert {dataset[n]["task_id"] for n in range(6)} == {0}


def test_an_unknown_task_is_refused_with_the_record(make, records):
    records[7]["task"] = "Cooking"
    with pytest.raises(InputError, match=r"record 7 \(id 'tiny-7'\).*Cooking"):
        make(records)


def test_settings_that_cannot_work_are_refused_at_once(make):
    with pytest.raises(InputError, match="image_folder"):
        make(folder=None)
    with pytest.raises(InputError, match="vision tower"):
        make(image_processor=None)
    with pytest.raises(InputError, match="bad_image"):
        make(bad_image="ignore")


def test_pad_and_square_differ_only_for_images_that_are_not_square(make):
    pad, square = make(), make(image_aspect_ratio="square")
    assert pad[0]["images"].shape == square[0]["images"].shape
    assert not torch.equal(pad[1]["images"], square[1]["images"])


def test_a_bad_image_fails_with_record_and_path(make, broken_folder):
    dataset = make(folder=broken_folder("003.png"))
    dataset[2]
    with pytest.raises(InputError, match=r"record 3 \(id 'tiny-3'\).*003\.png"):
        dataset[3]


@pytest.mark.parametrize("choice", ["skip", "replace"])
def test_a_skipped_image_gives_another_record_of_its_task_and_is_counted(make, broken_folder, records, caplog, choice):
    dataset = make(folder=broken_folder("003.png"), bad_image=choice)
    sample = dataset[3]
    assert sample["record_id"] != "tiny-3" and sample["task_id"] == TASK_IDS[records[3]["task"]]
    assert sample["images"] is not None
    assert dataset.bad_images == ["record 3 (id 'tiny-3')"] and "003.png" in caplog.text
    again = dataset[3]
    assert again["record_id"] == sample["record_id"] and torch.equal(again["images"], sample["images"])
    assert len(dataset.bad_images) == 1


def test_too_many_bad_images_are_refused(make, broken_folder):
    dataset = make(folder=broken_folder("003.png", "004.png"), bad_image="skip")
    dataset[3]
    with pytest.raises(InputError, match="more than 1%"):
        dataset[4]


def test_workers_count_bad_images_together(make, broken_folder):
    dataset = make(folder=broken_folder("003.png"), bad_image="skip")
    list(DataLoader(dataset, batch_size=6, num_workers=2, collate_fn=lambda samples: len(samples)))
    assert dataset.bad_images == ["record 3 (id 'tiny-3')"]


def test_image_tokens_and_images_must_match(make, records):
    records[0]["image"] = [records[0]["image"]] * 2
    with pytest.raises(InputError, match=r"record 0 .* 1 <image> token\(s\) for 2 image\(s\)"):
        make(records)[0]
    records[0]["conversations"][0]["value"] = "<image> and <image>: the same?"
    assert make(records)[0]["images"].shape == (2, 3, 56, 56)


def test_a_path_that_leaves_the_folder_is_refused(make, records):
    records[0]["image"] = "../secret.png"
    with pytest.raises(InputError, match="leaves the image folder"):
        make(records)[0]


def test_signs_of_lengths_separate_text_from_images(make, records):
    dataset = make()
    for record, length, signed in zip(records, dataset.lengths, dataset.modality_lengths, strict=True):
        assert length > 0 and (signed > 0) == ("image" in record)


def test_estimated_positions_count_words_and_the_patches_of_every_image(make, records):
    records[0] = records[0] | {"image": ["000.png", "001.png"]}
    records[5]["conversations"] = [{"from": "human", "value": "word " * 60}, {"from": "gpt", "value": "word " * 40}]
    dataset = make(records)
    text, whole = dataset.estimated_positions(0), dataset.estimated_positions(576)
    assert [w - t for w, t in zip(whole, text, strict=True)][:6] == [2 * 576, 576, 576, 576, 576, 0]
    assert text[5] == 140 and min(text) >= 1


def test_the_survey_counts_what_would_be_cut(make):
    found = make().survey(max_length=90, patches_per_image=16)
    assert sum(counts["records"] for counts in found.values()) == 24
    assert found[1]["truncated"] > 0
    assert not any(c["truncated"] for c in make().survey(max_length=2048, patches_per_image=16).values())
    assert make().survey(max_length=20, patches_per_image=16)[0]["unsupervised"] > 0


def test_a_dataset_can_be_sent_to_a_worker_and_batched(make):
    dataset = pickle.loads(pickle.dumps(make()))
    batch = SupervisedCollator(0, 512, 16)([dataset[n] for n in range(6)])
    assert batch["images"].shape == (5, 3, 56, 56)
