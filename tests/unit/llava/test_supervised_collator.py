"""The one place where sequences are cut and padded."""

import torch

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.data.collator import SupervisedCollator, kept_tokens


def sample(ids, labels=None, task=0, images=None):
    ids = torch.tensor(ids)
    labels = ids if labels is None else torch.tensor(labels)
    return {"input_ids": ids, "labels": labels, "task_id": task, "images": images, "record_id": "r"}


def pixels(*values):
    return torch.stack([torch.full((3, 2, 2), float(value)) for value in values])


def test_rows_are_padded_right_and_the_mask_does_not_follow_the_ids():
    batch = SupervisedCollator(0, 10, 4)([sample([5, 0, 6], task=2), sample([7], task=1)])
    assert batch["input_ids"].tolist() == [[5, 0, 6], [7, 0, 0]]
    assert batch["labels"].tolist() == [[5, 0, 6], [7, IGNORE_INDEX, IGNORE_INDEX]]
    # 0 is the pad id and also occurs in the text.
    assert batch["attention_mask"].tolist() == [[True, True, True], [True, False, False]]
    assert batch["attention_mask"].dtype == torch.bool
    assert batch["task_ids"].tolist() == [2, 1] and batch["task_ids"].dtype == torch.long
    assert "images" not in batch


def test_images_follow_the_order_of_their_tokens():
    rows = [
        sample([IMAGE_TOKEN_INDEX, 4], images=pixels(1)),
        sample([4, 5]),
        sample([IMAGE_TOKEN_INDEX, IMAGE_TOKEN_INDEX], images=pixels(2, 3)),
    ]
    batch = SupervisedCollator(0, 100, 4)(rows)
    assert batch["images"][:, 0, 0, 0].tolist() == [1, 2, 3]


def test_an_image_counts_with_its_patches():
    ids = torch.tensor([1, IMAGE_TOKEN_INDEX, 2, 3])
    assert kept_tokens(ids, None, 16) == kept_tokens(ids, 19, 16) == 4
    assert kept_tokens(ids, 18, 16) == 3
    assert kept_tokens(ids, 17, 16) == 2
    assert kept_tokens(ids, 16, 16) == 1


def test_an_image_that_does_not_fit_goes_with_its_token():
    row = sample([1, IMAGE_TOKEN_INDEX, 2, IMAGE_TOKEN_INDEX, 3], images=pixels(1, 2))
    batch = SupervisedCollator(0, 20, 16)([row])
    assert batch["input_ids"].tolist() == [[1, IMAGE_TOKEN_INDEX, 2]]
    assert batch["images"][:, 0, 0, 0].tolist() == [1]


def test_truncated_and_unsupervised_samples_are_counted(caplog):
    collator = SupervisedCollator(0, 3, 16)
    unsupervised = [IGNORE_INDEX] * 3 + [8]
    for _ in range(20):
        collator([sample([5, 6, 7, 8], labels=unsupervised, task=1), sample([1, 2], task=0)])
    assert collator.counts == {(1, "truncated"): 20, (1, "unsupervised"): 20}
    assert "no supervised token" in caplog.text and len(caplog.records) < 20
    # The label of the first token is never predicted.
    collator([sample([5, 6], labels=[5, IGNORE_INDEX], task=0)])
    assert collator.counts[0, "unsupervised"] == 1
