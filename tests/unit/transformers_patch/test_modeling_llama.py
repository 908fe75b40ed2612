"""LlamaForCausalLM: stock without a weighter, Eq. 2 with one."""

import pytest
import torch
import transformers
from transformers import LlamaConfig

import transformers_patch
from transformers_patch import EqualWeighting, LlamaForCausalLM
from transformers_patch.modeling_llama import sdpa_mask

CONFIG = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 90,
    "max_position_embeddings": 64,
}
PADDINGS = {"none": [12, 12], "right": [12, 8], "left": [12, -8]}


@pytest.fixture(scope="module")
def models():
    made = []
    for model_class in (transformers.LlamaForCausalLM, LlamaForCausalLM):
        torch.manual_seed(0)
        made.append(model_class(LlamaConfig(**CONFIG)).eval())
    return made


@pytest.fixture(params=PADDINGS)
def batch(request):
    torch.manual_seed(1)
    ids = torch.randint(3, 90, (2, 12))
    mask = torch.ones(2, 12, dtype=torch.long)
    for row, length in enumerate(PADDINGS[request.param]):
        if length > 0:
            mask[row, length:] = 0
        else:
            mask[row, :length] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :6] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def test_without_weighter_everything_is_bit_equal_to_transformers(models, batch):
    stock, ours = (model(**batch, output_attentions=True, output_hidden_states=True) for model in models)
    assert torch.equal(stock.logits, ours.logits) and torch.equal(stock.loss, ours.loss)
    assert all(torch.equal(a, b) for a, b in zip(stock.attentions, ours.attentions, strict=True))
    assert list(models[0].state_dict()) == list(models[1].state_dict())


def test_without_weighter_gradients_are_bit_equal_to_transformers(models, batch):
    grads = []
    for model in models:
        model.zero_grad()
        model(**batch).loss.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_equal_weights_give_loss_and_gradients_of_the_plain_path(models, batch):
    stock, ours = models
    ours.train()
    stock.zero_grad()
    ours.zero_grad()
    expected = stock(**batch).loss
    output = ours(**batch, weighter=EqualWeighting(3), task_ids=torch.tensor([0, 2]))
    ours.eval()
    assert output.logits is None
    torch.testing.assert_close(output.loss, expected, atol=1e-6, rtol=1e-6)
    expected.backward()
    output.loss.backward()
    for a, b in zip(stock.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


def test_sdpa_logits_equal_eager_ones_where_tokens_are_real(models, batch):
    ours = models[1]
    real = batch["attention_mask"].bool()
    output = ours(**batch, weighter=EqualWeighting(2), task_ids=torch.tensor([0, 1]))
    torch.testing.assert_close(output.logits[real], ours(**batch).logits[real], atol=1e-5, rtol=1e-5)


def test_generation_with_cache_equals_transformers(models):
    ids = torch.randint(3, 90, (2, 5), generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])
    texts = [m.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0) for m in models]
    assert torch.equal(*texts)


def test_sdpa_generation_with_cache_equals_eager(models):
    ids = torch.randint(3, 90, (2, 5), generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])
    expected = models[0].generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
    ours = models[1]
    ours.model.attention = "sdpa"
    try:
        got = ours.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
    finally:
        del ours.model.attention
    assert torch.equal(got, expected)


def test_gradient_checkpointing_recomputes_with_the_same_attention(batch):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).train()
    arguments = {**batch, "weighter": EqualWeighting(2), "task_ids": torch.tensor([0, 1])}
    model(**arguments).loss.backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    model(**arguments).loss.backward()
    for a, p in zip(plain, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)


def test_right_padding_and_no_padding_need_no_mask():
    assert sdpa_mask(torch.tensor([[1, 1, 0], [1, 1, 1]]), 3, 0) is None
    assert sdpa_mask(torch.ones(2, 7), 1, 6) is None
    left = sdpa_mask(torch.tensor([[0, 1, 1]]), 3, 0)
    assert left[0, 0].tolist() == [[True, False, False], [False, True, False], [False, True, True]]


def test_micro_batches_of_unequal_token_counts_add_up_to_one_batch(models):
    ours = models[1].train()
    torch.manual_seed(3)
    ids = torch.randint(3, 90, (4, 12))
    labels = ids.clone()
    labels[0, :11], labels[1, :2], labels[2, :], labels[3, :7] = -100, -100, -100, -100
    tasks, weighter = torch.tensor([0, 1, 1, 2]), EqualWeighting(3, [0.6, 1.7, 1.1])
    arguments = {"weighter": weighter, "task_ids": tasks}
    whole = ours(ids, labels=labels, **arguments)
    parts = [
        ours(
            ids[n : n + 1],
            labels=labels[n : n + 1],
            weighter=weighter,
            task_ids=tasks[n : n + 1],
            token_count_K=whole.task_token_count_K,
        ).loss
        for n in range(4)
    ]
    ours.eval()
    assert parts[2].item() == 0 and parts[2].requires_grad
    assert sum(parts).item() == pytest.approx(whole.loss.item(), abs=1e-6)


def test_weighter_without_task_ids_is_refused_unless_it_has_one_task(models):
    ids = torch.randint(3, 90, (2, 5))
    with pytest.raises(ValueError, match="task_ids must be given"):
        models[1](ids, labels=ids, weighter=EqualWeighting(2))
    assert models[1](ids, labels=ids, weighter=EqualWeighting(1)).loss > 0


def test_object_with_the_references_interface_is_used(models):
    class Mean:
        def get_weighted_loss(self, losses, task_ids):
            return losses[losses != 0].mean() * task_ids.float().mean()

    ids = torch.randint(3, 90, (2, 5), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[0, :3] = -100
    expected = models[0](ids, labels=labels).loss * 2
    output = models[1](ids, labels=labels, weighter=Mean(), task_ids=torch.tensor([1, 3]))
    torch.testing.assert_close(output.loss, expected)


def test_resizing_the_vocabulary_keeps_the_head_able_to_weight():
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    model.resize_token_embeddings(92)
    ids = torch.tensor([[5, 91, 90]])
    assert model(ids, labels=ids, weighter=EqualWeighting(1)).loss > 0


def test_patch_and_unpatch_are_reversible():
    stock = transformers.Trainer, transformers.LlamaForCausalLM
    transformers_patch.patch()
    transformers_patch.patch()
    try:
        assert transformers.Trainer is transformers_patch.Trainer
        assert transformers.LlamaForCausalLM is LlamaForCausalLM
        assert isinstance(transformers.AutoModelForCausalLM.from_config(LlamaConfig(**CONFIG)), LlamaForCausalLM)
    finally:
        transformers_patch.unpatch()
    assert (transformers.Trainer, transformers.LlamaForCausalLM) == stock


def test_patch_refuses_another_transformers(monkeypatch):
    monkeypatch.setattr(transformers, "__version__", "4.40.0")
    with pytest.raises(ValueError, match=r"must be 4\.31\.0, got 4\.40\.0"):
        transformers_patch.patch()
