"""The weighted token loss against closed forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from transformers_patch import loss as loss_module
from transformers_patch.loss import (
    LanguageModelHead,
    count_supervised_tokens,
    supervised_token_losses,
    task_loss_sums,
    task_mean_losses,
    weighted_token_loss,
)

LABELS = torch.tensor([[1, -100, 5, 3, -100], [-100, -100, -100, -100, -100], [2, 4, 4, -100, 1]])


def test_loss_is_equation_2_by_hand():
    token_loss, weight = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3.0, 3.0, 0.5])
    assert weighted_token_loss(token_loss, weight).item() == pytest.approx((3 + 6 + 2) / 6.5)


def test_tokens_of_loss_zero_stay_in_the_denominator():
    assert weighted_token_loss(torch.tensor([0.0, 2.0, 2.0]), torch.ones(3)).item() == pytest.approx(4 / 3)


def test_no_supervised_token_gives_zero_with_a_gradient_not_nan():
    head = LanguageModelHead(4, 7, bias=False)
    hidden = torch.randn(1, 3, 4, requires_grad=True)
    token_loss, _ = supervised_token_losses(hidden, torch.full((1, 3), -100), head)
    loss = weighted_token_loss(token_loss, torch.ones(0))
    loss.backward()
    assert loss.item() == 0 and torch.equal(head.weight.grad, torch.zeros(7, 4))


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="one weight per token"):
        weighted_token_loss(torch.ones(3), torch.ones(2))


def test_supervised_token_losses_equal_the_plain_path_with_full_logits():
    torch.manual_seed(0)
    head, hidden = LanguageModelHead(8, 6, bias=False), torch.randn(3, 5, 8)
    token_loss, row = supervised_token_losses(hidden, LABELS, head)
    full = nn.functional.cross_entropy(head(hidden)[:, :-1].reshape(-1, 6), LABELS[:, 1:].reshape(-1), reduction="none")
    assert torch.allclose(token_loss, full.reshape(3, 4)[LABELS[:, 1:] != -100])
    assert row.tolist() == [0, 0, 2, 2, 2]


def test_chunks_change_neither_losses_nor_gradients(monkeypatch):
    torch.manual_seed(0)
    head, hidden, label = LanguageModelHead(8, 6), torch.randn(11, 8, requires_grad=True), torch.randint(0, 6, (11,))
    grads = []
    for chunk in (100, 3):
        monkeypatch.setattr(loss_module, "CHUNK_TOKENS", chunk)
        losses = head(hidden, label)
        grads.append([losses, *torch.autograd.grad(losses.square().sum(), [hidden, head.weight, head.bias])])
    for whole, chunked in zip(*grads, strict=True):
        torch.testing.assert_close(whole, chunked)


def test_supervised_tokens_are_counted_after_the_shift():
    assert count_supervised_tokens(LABELS, torch.tensor([0, 1, 2]), 4).tolist() == [2, 0, 3, 0]


@pytest.mark.parametrize("task", [-1, 4])
def test_task_id_out_of_range_is_refused(task):
    with pytest.raises(ValueError, match="task_ids must be in 0..3"):
        count_supervised_tokens(LABELS, torch.tensor([0, 1, task]), 4)


def test_absent_task_has_no_mean_instead_of_zero():
    means = task_mean_losses(torch.tensor([1.0, 3.0]), torch.tensor([1, 1]), 2)
    assert means[0].isnan() and means[1] == 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 20)), max_size=40), st.integers(1, 5))
def test_sums_over_any_split_add_up_to_the_whole(tokens, parts):
    task = torch.tensor([t for t, _ in tokens], dtype=torch.long)
    loss = torch.tensor([x for _, x in tokens])
    whole_sum, whole_count = task_loss_sums(loss, task, 4)
    split = [task_loss_sums(a, b, 4) for a, b in zip(loss.chunk(parts), task.chunk(parts), strict=True)]
    torch.testing.assert_close(sum(s for s, _ in split), whole_sum)
    assert torch.equal(sum(c for _, c in split), whole_count)
