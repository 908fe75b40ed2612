"""Dealing of a step's samples by work."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformers_patch.dealing import Dealing
from transformers_patch.step_loader import StepLayout

SIZES = st.integers(1, 5)


@given(st.lists(st.integers(1, 900), min_size=1, max_size=60), SIZES, SIZES, SIZES)
def test_every_sample_is_read_once_and_ranks_have_equal_counts(lengths, per_device, accumulation, world):
    dealing = Dealing(lengths, hidden_size=64)
    layouts = [StepLayout(per_device, accumulation, world, rank, dealing) for rank in range(world)]
    order = random.Random(0).sample(range(len(lengths)), len(lengths))
    for step in range(layouts[0].steps(len(order))):
        dealt = [layout.micro_batches(order, step) for layout in layouts]
        assert all(len(parts) == accumulation and all(indices for indices, _ in parts) for parts in dealt)
        read = [index for parts in dealt for indices, counts in parts if counts for index in indices]
        size = layouts[0].samples_per_step
        assert sorted(read) == sorted(order[step * size : (step + 1) * size])


def test_the_longest_goes_first_to_the_part_with_least_work():
    dealing = Dealing([50, 10, 40, 20, 31], hidden_size=10**6)  # attention counts for nothing
    assert dealing.deal(range(5), 2) == [[0, 3, 1], [2, 4]]
    assert dealing.deal([1], 3) == [[1], [], []]


def test_the_fullest_part_exchanges_samples_with_the_emptiest():
    # In order of length alone: 8 + 5 + 4 = 17 beside 7 + 6 = 13.
    dealt = Dealing([8, 7, 6, 5, 4], hidden_size=10**6).deal(range(5), 2)
    assert sorted(sum((8, 7, 6, 5, 4)[n] for n in part) for part in dealt) == [15, 15]
    assert sorted(n for part in dealt for n in part) == [0, 1, 2, 3, 4]


def test_attention_makes_one_long_sample_more_work_than_two_halves():
    assert Dealing([], hidden_size=1).work(100) > 2 * Dealing([], hidden_size=1).work(50)


@pytest.mark.parametrize("per_device, bar", [(16, 1.01), (4, 1.10)])
def test_ranks_of_uneven_samples_finish_together(per_device, bar):
    draw = random.Random(0)
    lengths = [min(600 * draw.randint(0, 1) + int(draw.lognormvariate(4.5, 0.9)), 2048) for _ in range(per_device * 80)]
    layout = StepLayout(per_device, 1, 8, dealing=Dealing(lengths, 4096))
    balances = [layout.balance(range(len(lengths)), step) for step in range(10)]
    assert sum(b.slowest_work for b in balances) / sum(b.mean_work for b in balances) <= bar
    assert sum(b.padded_positions for b in balances) > 1.4 * sum(b.positions for b in balances)


def test_balance_is_that_of_the_sums_by_hand():
    layout = StepLayout(2, 1, 2, dealing=Dealing([5, 1, 1, 1], hidden_size=10**9))
    balance = layout.balance([0, 1, 2, 3], 0)
    assert (balance.positions, balance.padded_positions) == (8, 12)
    assert balance.slowest_work / balance.mean_work == pytest.approx(5 / 4)
