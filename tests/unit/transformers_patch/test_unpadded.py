"""Samples laid end to end: the same losses and gradients as with padding."""

import pytest
import torch
from transformers import LlamaConfig

from transformers_patch import LlamaForCausalLM, Weighter, build_weighter, unpadded
from transformers_patch.loss import count_supervised_tokens
from transformers_patch.unpadded import (
    SampleBounds,
    UnpaddedCollator,
    attend_within_samples,
    count_batch,
    lay_end_to_end,
    silenced,
    without_padding,
)

IGNORE = -100


def _model(seed=0, **settings):
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(**shape, vocab_size=90, **settings)).train()


def _padded(lengths=(12, 3, 1, 8, 12), left=False):
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 90, (len(lengths), max(lengths)), generator=draw)
    place = torch.arange(max(lengths))
    length_B1 = torch.tensor(lengths)[:, None]
    mask = place >= max(lengths) - length_B1 if left else place < length_B1
    labels = ids.masked_fill(~mask | (torch.rand(ids.shape, generator=draw) < 0.4), IGNORE)
    labels[3] = IGNORE  # a sample that teaches nothing
    return {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": mask,
        "task_ids": torch.tensor([0, 2, 1, 1, 0]),
    }


def _loss_and_gradients(model, batch, weighter, **options):
    model.zero_grad()
    output = model(**batch, weighter=weighter, **options)
    output.loss.backward()
    return [output.loss.detach(), *(p.grad.clone() for p in model.parameters())]


def _assert_same(padded, laid):
    for a, b in zip(padded, laid, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6 * max(1.0, float(a.abs().max())))


class _Users:
    """The reference's interface: a mean per row, weighted."""

    def get_weighted_loss(self, losses, task_ids):
        weight = torch.tensor([0.5, 2.0, 1.0])[task_ids][:, None] * (losses != 0)
        return (weight * losses).sum() / weight.sum()


class _Own(Weighter):
    """Its forward needs the losses before it knows the weights."""

    def forward(self, token_loss_T, task_T, count_K=None):
        return (token_loss_T.softmax(0) * token_loss_T).sum()


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("method", ["EW", "EWTB", "RLW", "DWA", "IGB", "UW", "own", "users"])
def test_losses_and_gradients_are_those_of_padded_rows(method, left):
    if method in ("own", "users"):
        weighter = _Own(3) if method == "own" else _Users()
    else:
        weighter = build_weighter(method, 3, [0.5, 2.0, 1.0] if method in ("EW", "EWTB") else None)
        weighter.begin_step()
        weighter.observe(torch.tensor([2.0, 1.0, 3.0]).double(), torch.tensor([4, 5, 6]))
    model, batch = _model(num_key_value_heads=2), _padded(left=left)
    for count in (None, torch.tensor([31, 7, 12])):  # of this micro-batch alone, and of a whole step
        weighter = weighter.eval() if isinstance(weighter, Weighter) else weighter
        counts = {} if method == "users" else {"token_count_K": count}
        found = [_loss_and_gradients(model, b, weighter, **counts) for b in (batch, without_padding(batch))]
        _assert_same(*found)


def test_sums_of_each_task_are_those_of_padded_rows():
    model, batch, weighter = _model(), _padded(), build_weighter("EW", 3)
    padded, laid = (model(**b, weighter=weighter) for b in (batch, without_padding(batch)))
    torch.testing.assert_close(laid.task_loss_sum_K, padded.task_loss_sum_K, rtol=1e-6, atol=1e-6)
    assert torch.equal(laid.task_token_count_K, padded.task_token_count_K)


def test_gradient_checkpointing_recomputes_attention_inside_samples():
    model, batch, weighter = _model(), without_padding(_padded()), build_weighter("EW", 3)
    plain = _loss_and_gradients(model, batch, weighter)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    _assert_same(plain, _loss_and_gradients(model, batch, weighter))


def _asked(name):
    def ask(model, options):
        options[name] = True

    return ask


# What else may be made of the last layer's output, at all positions.
_NEEDS_ALL = {
    "hidden states": _asked("output_hidden_states"),
    "cache": _asked("use_cache"),
    "hidden states by configuration": lambda model, _: setattr(model.config, "output_hidden_states", True),
    "logits": lambda model, _: model.eval(),
}


@pytest.mark.parametrize("need", [None, *_NEEDS_ALL])
def test_the_last_mlp_computes_what_the_loss_reads_and_all_where_more_is_asked(need):
    model, batch, options, rows = _model(), without_padding(_padded()), {}, []
    model.model.layers[-1].mlp.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[1]))
    if need is not None:
        _NEEDS_ALL[need](model, options)
    output = model(**batch, weighter=build_weighter("EW", 3), **options)
    positions, supervised = sum(batch["unpadded"]["lengths"]), len(batch["unpadded"]["label_T"])
    assert supervised < positions and rows == [supervised if need is None else positions]
    for hidden in output.hidden_states or ():
        assert hidden.shape == (1, positions, 32)


def test_device_maps_know_every_layer_by_its_class_name():
    model = _model()
    assert [type(layer).__name__ for layer in model.model.layers] == model._no_split_modules * 2


def test_bfloat16_rows_are_within_its_rounding_of_padded_ones():
    model, batch, weighter = _model().bfloat16(), _padded(), build_weighter("EW", 3)
    padded, laid = (_loss_and_gradients(model, b, weighter) for b in (batch, without_padding(batch)))
    for a, b in zip(padded, laid, strict=True):
        assert (a - b).abs().max() <= 0.04 * a.abs().max()


def _plain_attention(query, key, value, lengths):
    """One matrix of scores over the whole row, masked in blocks."""
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    sample = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(len(sample))
    allowed = (sample[:, None] == sample) & (place[:, None] >= place)
    scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    return scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ value


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("lengths", [(7,), (1, 5, 1, 9)])
def test_attention_stays_inside_of_each_sample(lengths, heads):
    torch.manual_seed(0)
    shapes = [(1, n, sum(lengths), 8) for n in (heads[0], heads[1], heads[1])]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    outputs = attend_within_samples(*tensors, SampleBounds(lengths, ends)), _plain_attention(*tensors, lengths)
    torch.testing.assert_close(*outputs)
    for ours, plain in zip(*(torch.autograd.grad(o.square().sum(), tensors) for o in outputs), strict=True):
        torch.testing.assert_close(ours, plain)


def test_places_of_wide_tokens_and_of_what_is_supervised():
    ids = [torch.tensor([1, -200, 7]), torch.tensor([1, 8]), torch.tensor([-200, -200])]
    labels = [torch.tensor([5, IGNORE, 7]), torch.tensor([1, 8]), torch.tensor([IGNORE, IGNORE])]
    laid = lay_end_to_end(ids, labels, wide_token=-200, width=3)
    row = laid["unpadded"]
    assert laid["input_ids"].tolist() == [[1, 7, 1, 8]]
    assert row["lengths"] == [5, 2, 6] and row["cumulative"].tolist() == [0, 5, 7, 13]
    # Four text tokens, then the positions of three wide ones.
    assert row["order_L"].tolist() == [0, 4, 5, 6, 1, 2, 3, *range(7, 13)]
    assert row["position_ids"].tolist() == [[*range(5), *range(2), *range(6)]]
    # A sample's first token is supervised by nothing, least of all by the sample before it.
    assert row["predictor_T"].tolist() == [3, 5] and row["label_T"].tolist() == [7, 8]
    assert row["sample_T"].tolist() == [0, 1]


def test_tokens_of_tasks_are_counted_as_in_padded_rows():
    batch = _padded()
    expected = count_supervised_tokens(batch["labels"], batch["task_ids"], 3)
    assert torch.equal(count_batch(without_padding(batch), 3), expected)
    with pytest.raises(ValueError, match=r"task_ids must be in 0\.\.1"):
        count_batch(without_padding(batch), 2)


def test_a_silenced_row_gives_zero_loss_with_a_zero_gradient():
    model, batch = _model(), silenced(without_padding(_padded()))
    found = _loss_and_gradients(model, batch, build_weighter("EW", 3), token_count_K=torch.tensor([3, 4, 5]))
    assert not any(tensor.any() for tensor in found)
    assert count_batch(batch, 3).tolist() == [0, 0, 0]


def test_batches_with_more_than_text_are_left_as_they_are():
    batch = _padded() | {"images": torch.zeros(1)}
    assert UnpaddedCollator(lambda samples: samples[0])([batch]) is batch


def test_the_kernel_of_a_gpu_gets_each_samples_bounds(monkeypatch):
    """FlashAttention's interface, served by the plain reference: layouts, bounds and grouping are what it wants."""
    asked = []

    def kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size, enable_gqa):
        asked.append((cu_seq_q.tolist(), cu_seq_k.tolist(), max_q, max_k, window_size, enable_gqa))
        lengths = cu_seq_q.diff().tolist()
        rows = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))  # [L, H, E]
        return _plain_attention(*rows, lengths)[0].transpose(0, 1)

    lengths, ends = (2, 5, 1), torch.tensor([0, 2, 7, 8], dtype=torch.int32)
    tensors = [torch.randn(1, heads, 8, 8) for heads in (4, 2, 2)]
    expected = attend_within_samples(*tensors, SampleBounds(lengths, ends))
    monkeypatch.setattr(unpadded, "_has_kernel", lambda query: True)
    monkeypatch.setattr(unpadded, "varlen_attn", kernel)
    torch.testing.assert_close(attend_within_samples(*tensors, SampleBounds(lengths, ends)), expected)
    assert asked == [([0, 2, 7, 8], [0, 2, 7, 8], 5, 5, (-1, 0), True)]
