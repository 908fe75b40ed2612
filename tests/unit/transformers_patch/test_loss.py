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
    supervised_tokens,
    task_loss_sums,
    task_mean_losses,
    token_losses,
    weighted_losses,
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
    selected, label, *_ = supervised_tokens(hidden, torch.full((1, 3), -100))
    for loss in (
        weighted_token_loss(token_losses(head, selected, label), torch.ones(0)),
        weighted_losses(head, selected, label, torch.ones(0))[0],
    ):
        head.weight.grad = None
        loss.backward(retain_graph=True)
        assert loss.item() == 0 and torch.equal(head.weight.grad, torch.zeros(7, 4))


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="one weight per token"):
        weighted_token_loss(torch.ones(3), torch.ones(2))


def test_supervised_token_losses_equal_the_plain_path_with_full_logits():
    torch.manual_seed(0)
    head, hidden = LanguageModelHead(8, 6, bias=False), torch.randn(3, 5, 8)
    selected, label, row, *_ = supervised_tokens(hidden, LABELS)
    token_loss = token_losses(head, selected, label)
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


def _head_case(tokens, vocabulary, dtype, bias=False):
    draw = torch.Generator().manual_seed(tokens)
    head = LanguageModelHead(16, vocabulary, bias=bias).to(dtype)
    head.weight.data.copy_(torch.randn(vocabulary, 16, generator=draw))
    hidden = torch.randn(tokens, 16, generator=draw).to(dtype).requires_grad_()
    label = torch.randint(0, vocabulary, (tokens,), generator=draw)
    return head, hidden, label, torch.rand(tokens, generator=draw)


def _plain(head, hidden, label, weight):
    """Full logits, differentiated by autograd."""
    loss = nn.functional.cross_entropy(head(hidden).float(), label, reduction="none")
    return (weight * loss).sum(), loss.detach()


def _compare(case, tolerance, scale=3.0, autocast=False):
    head, hidden, label, weight = case
    wanted = [tensor for tensor in (hidden, *head.parameters()) if tensor.requires_grad]
    found = []
    for losses in (_plain, weighted_losses):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss, per_token = losses(head, hidden, label, weight)
        found.append([loss.detach(), per_token, *torch.autograd.grad(scale * loss, wanted)])
    for plain, ours in zip(*found, strict=True):
        largest = float(plain.detach().double().abs().max()) if plain.numel() else 0.0
        torch.testing.assert_close(ours, plain, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("tokens", "vocabulary"), [(0, 11), (1, 11), (7, 40), (33, 320), (5, 152_000)])
def test_gradients_made_in_the_forward_equal_autograds(monkeypatch, tokens, vocabulary, bias):
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", 1)
    monkeypatch.setattr(loss_module, "LEAST_CHUNK", 2)
    # Both round sums of V terms, each processor's kernels in an order of their own.
    _compare(_head_case(tokens, vocabulary, torch.float32, bias), 3e-6 * max(1, vocabulary / 320) ** 0.5)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_head_differs_by_its_rounding_alone(monkeypatch, autocast):
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", 1)
    monkeypatch.setattr(loss_module, "LEAST_CHUNK", 4)
    _compare(_head_case(33, 320, torch.float32 if autocast else torch.bfloat16), 0.02, autocast=autocast)


def test_float16_head_keeps_a_gradient_below_its_smallest_number():
    head, hidden, label, weight = _head_case(9, 40, torch.float16)
    loss, _ = weighted_losses(head, hidden, label, weight * 1e-7)
    plain, _ = _plain(head, hidden, label, weight * 1e-7)
    ours, theirs = (torch.autograd.grad(2.0**16 * total, hidden)[0] for total in (loss, plain))
    torch.testing.assert_close(ours, theirs)
    assert ours.any()


def test_frozen_head_and_frozen_hidden_states_get_no_gradient():
    head, hidden, label, weight = _head_case(9, 40, torch.float32)
    head.requires_grad_(False)
    _compare((head, hidden, label, weight), 3e-6)
    head.requires_grad_(True)
    _compare((head, hidden.detach(), label, weight), 3e-6)


def test_head_tied_to_the_embeddings_sums_both_gradients():
    head, _, label, weight = _head_case(9, 40, torch.float32)
    ids, grads = torch.arange(9), []
    for losses in (_plain, weighted_losses):
        loss, _ = losses(head, nn.functional.embedding(ids, head.weight), label, weight)
        grads.append(torch.autograd.grad(loss, head.weight)[0])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("kind", ["lora", "trained copy"])
def test_head_inside_of_peft_has_the_plain_paths_gradients(kind):
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils import ModulesToSaveWrapper

    head, hidden, label, weight = _head_case(9, 40, torch.float32)
    if kind == "lora":
        holder = nn.ModuleDict({"lm_head": head})
        head = inject_adapter_in_model(LoraConfig(r=2, target_modules=["lm_head"]), holder)["lm_head"]
        nn.init.normal_(head.lora_B["default"].weight)
    else:
        head = ModulesToSaveWrapper(head, "default")
    _compare((head, hidden, label, weight), 3e-6)


def test_no_backward_can_go_through_used_gradients_a_second_time():
    head, hidden, label, weight = _head_case(9, 40, torch.float32)
    loss, _ = weighted_losses(head, hidden, label, weight)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


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
