"""Samples with images laid end to end: what the model makes of them is what it makes of padded rows."""

import pytest
import torch
from waits import Waits

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.data.collator import SupervisedCollator
from transformers_patch import EqualWeighting

IMAGE, PATCHES = IMAGE_TOKEN_INDEX, 16
ROWS = [[1, 20, IMAGE, 30, 31], [1, 40, 41], [1, IMAGE, 50, IMAGE, 51, 52, 53], [IMAGE, 60], [1, 70, IMAGE]]


def samples(rows, limit=None):
    draw = torch.Generator().manual_seed(0)
    made = []
    for n, row in enumerate(rows):
        ids = torch.tensor(row)
        labels = torch.where((ids == IMAGE) | (torch.arange(len(row)) < 2), IGNORE_INDEX, ids)
        images = torch.randn(row.count(IMAGE), 3, 56, 56, generator=draw) if IMAGE in row else None
        made.append({"input_ids": ids, "labels": labels, "images": images, "task_id": n % 3})
    return made


def both(rows, limit=None):
    return [SupervisedCollator(0, limit, PATCHES, padded=padded)(samples(rows)) for padded in (True, False)]


def gradients(model, batch, **options):
    model.zero_grad()
    batch = {name: value for name, value in batch.items() if name != "unsupervised_samples"}
    loss = model(**batch, weighter=EqualWeighting(3, [0.5, 2.0, 1.0]), **options).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)]


def assert_same(found, expected):
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6 * max(1.0, float(a.abs().max())))


@pytest.mark.parametrize("trained", ["all", "projector"])
@pytest.mark.parametrize("rows", [ROWS, ROWS[1:2] * 2, ROWS[3:4], ROWS[2:3]], ids=["mixed", "text", "short", "several"])
def test_losses_and_gradients_are_those_of_padded_rows(model, rows, trained):
    model.train()
    model.requires_grad_(trained == "all")
    model.get_model().mm_projector.requires_grad_(True)
    model.get_vision_tower().requires_grad_(False)
    padded, unpadded = both(rows)
    for count in (None, torch.tensor([9, 5, 7])):
        expected, found = (gradients(model, batch, token_count_K=count) for batch in (padded, unpadded))
        assert_same(found, expected)


def test_recomputed_layers_give_the_same_gradients(model):
    model.train()
    _, unpadded = both(ROWS)
    expected = gradients(model, unpadded)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    assert_same(gradients(model, unpadded), expected)


def test_rows_are_cut_where_padded_ones_are(model):
    model.train()
    padded, unpadded = both(ROWS, limit=20)
    assert max(unpadded["unpadded"]["lengths"]) <= 20 and len(unpadded["images"]) == len(padded["images"])
    assert_same(gradients(model, unpadded), gradients(model, padded))


def test_text_alone_trains_the_projector_by_an_exact_zero(model):
    model.train()
    _, text = both(ROWS[1:2])
    gradients(model, text)
    assert all(p.grad is not None and not p.grad.any() for p in model.get_model().mm_projector.parameters())


@pytest.mark.parametrize("wrong", [None, torch.zeros(1, 3, 56, 56)])
def test_images_that_do_not_fill_their_places_are_refused(model, wrong):
    _, batch = both(ROWS)
    with pytest.raises(ValueError, match="images must fill 80 positions"):
        gradients(model.train(), batch | {"images": wrong})


def test_the_collator_counts_samples_that_teach_nothing():
    for batch in both([[1, IMAGE], *ROWS]):
        assert batch["unsupervised_samples"] == 3  # those that end with an image; the first two tokens teach nothing


@pytest.mark.parametrize("rows", [ROWS, ROWS[1:2]], ids=["images", "text"])
def test_forward_and_backward_never_wait_for_the_device(model, rows):
    model.train()
    _, batch = both(rows)
    with Waits() as waits:
        gradients(model, batch, token_count_K=torch.tensor([9, 5, 7]))
    assert not waits.found
