"""First-order contributions: against finite differences of real optimizer steps, and against exact inner products."""

import pytest
import torch
from sentences import Sentences, collate, model
from torch.nn import functional as F

from transformers_patch.first_order import SecondMoment, Sketch, first_order_contributions, mean_gradient

TASKS = 3


def token_loss(net, batch):
    """The sum of the token losses of a batch and their number, in the model's dtype."""
    logits = net(input_ids=batch["input_ids"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    loss = F.cross_entropy(logits.transpose(1, 2), labels, reduction="sum", ignore_index=-100)
    return loss, int((labels != -100).sum())


def batches_of(task, start):
    chosen = Sentences(66).samples[start + task : start + 33 : TASKS]
    return [collate(chosen[n : n + 4]) for n in range(0, len(chosen), 4)]


@pytest.fixture(scope="module")
def measured():
    """A model in float64, its parameters, Adam's v over some steps, and exact sketches of all gradients."""
    net = model().double().eval()
    net.model.attention = "sdpa"  # transformers' own mask is not made for float64
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    moment = SecondMoment(parameters)
    for n in range(6):
        mean_gradient(parameters, [collate(Sentences(66).samples[11 * n : 11 * n + 11])], lambda b: token_loss(net, b))
        moment.add(parameters)
    return net, parameters, moment


def sketches(measured, sketch, start):
    net, parameters, moment = measured
    found = []
    for task in range(TASKS):
        mean_gradient(parameters, batches_of(task, start), lambda batch: token_loss(net, batch))
        found.append(sketch.of(parameters, moment))
    return torch.stack(found)


def validation_loss(net, task):
    with torch.no_grad():
        parts = [token_loss(net, batch) for batch in batches_of(task, 33)]
    return float(sum(loss for loss, _ in parts) / sum(count for _, count in parts))


def test_a_step_on_one_task_changes_the_others_losses_as_predicted(measured):
    net, parameters, moment = measured
    exact = Sketch(buckets=0)
    gain_KK = sketches(measured, exact, 0) @ sketches(measured, exact, 33).T
    before = [validation_loss(net, task) for task in range(TASKS)]
    saved = [parameter.detach().clone() for parameter in parameters]
    lr = 3e-5  # the logits are float32: with a smaller rate their rounding is larger than the change
    for i in range(TASKS):
        mean_gradient(parameters, batches_of(i, 0), lambda batch: token_loss(net, batch))
        with torch.no_grad():
            for n, parameter in enumerate(parameters):
                parameter -= lr * moment.preconditioner(n) * parameter.grad
        for j in range(TASKS):
            change = validation_loss(net, j) - before[j]
            assert change == pytest.approx(
                -lr * float(gain_KK[i, j]), rel=0.05, abs=0.01 * lr * float(gain_KK.abs().max())
            )
        with torch.no_grad():
            for parameter, value in zip(parameters, saved, strict=True):
                parameter.copy_(value)


def test_sketches_keep_the_contributions_and_are_the_same_each_time(measured):
    exact, _ = first_order_contributions(sketches(measured, Sketch(0), 0), sketches(measured, Sketch(0), 0))
    assert exact.diagonal().tolist() == [1.0] * TASKS
    errors = []
    for seed in range(5):
        sketch = Sketch(2**14, seed)
        training_KD = sketches(measured, sketch, 0)
        found, _ = first_order_contributions(sketches(measured, sketch, 0), training_KD)
        errors.append((found - exact).abs().max())
        assert torch.equal(training_KD, sketches(measured, Sketch(2**14, seed), 0))
    assert sum(errors) / len(errors) < 0.05


def test_the_gradient_is_the_mean_over_tokens_however_they_are_batched(measured):
    net, parameters, _ = measured
    samples = Sentences(24).samples
    found = []
    for size in (24, 5, 1):
        batches = [collate(samples[n : n + size]) for n in range(0, 24, size)]
        count = mean_gradient(parameters, batches, lambda batch: token_loss(net, batch))
        found.append((count, torch.cat([parameter.grad.flatten() for parameter in parameters])))
    assert len({count for count, _ in found}) == 1
    for _, gradient in found[1:]:
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-9, atol=1e-12)


def test_a_task_without_tokens_or_gain_is_refused(measured):
    net, parameters, _ = measured
    nothing = collate([sample | {"labels": torch.full((14,), -100)} for sample in Sentences(4).samples])
    with pytest.raises(ValueError, match="no supervised token"):
        mean_gradient(parameters, [nothing], lambda batch: token_loss(net, batch))
    with pytest.raises(ValueError, match="the gradient is not finite"):
        mean_gradient(parameters, [nothing], lambda batch: (parameters[0].sum() * float("nan"), 1))
    with pytest.raises(ValueError, match="own data of task 1 does not lower"):
        first_order_contributions(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
