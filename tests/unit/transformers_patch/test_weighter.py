"""Weighting strategies as objects."""

import math

import pytest
import torch

from transformers_patch import EqualWeighting, Weighter, build_weighter


def test_weights_3_and_a_half_give_gradients_6_to_1():
    loss = torch.tensor([2.0, 2.0], requires_grad=True)
    weighter = EqualWeighting(2, [3.0, 0.5])
    count = torch.tensor([1, 1])
    for n in range(2):
        weighter(loss[n : n + 1], torch.tensor([n]), count).backward()
    assert loss.grad[0] / loss.grad[1] == pytest.approx(6.0)


def test_common_factor_of_the_weights_cancels():
    loss, task = torch.rand(9), torch.arange(9) % 3
    one = EqualWeighting(3, [0.6, 1.7, 1.1])(loss, task)
    assert EqualWeighting(3, [6.0, 17.0, 11.0])(loss, task).item() == pytest.approx(one.item(), rel=1e-6)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0], [1.0, 0.0], [1.0, -2.0], [1.0, math.nan], [math.inf, 1.0]])
def test_unfit_weights_are_refused(weights):
    with pytest.raises(ValueError, match="visatb_weights must"):
        build_weighter("EW", 2, weights)


def test_unknown_method_is_refused_by_name():
    with pytest.raises(ValueError, match="weight_method must be one of EW.*'nonsense'"):
        build_weighter("nonsense", 2)


def test_weights_are_saved_and_restored():
    saved = EqualWeighting(3, [0.5, 1.0, 1.5]).state_dict()
    other = EqualWeighting(3)
    other.load_state_dict(saved)
    assert other.weight_K.tolist() == [0.5, 1.0, 1.5]


def test_a_strategy_needs_only_its_rule():
    class InverseCount(Weighter):
        def token_weights(self, count_K):
            weight_K = 1 / count_K.clamp(min=1)
            return weight_K, (count_K > 0).sum()

    loss, task = torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0, 0, 1])
    assert InverseCount(3)(loss, task).item() == pytest.approx((2 + 10) / 2)
