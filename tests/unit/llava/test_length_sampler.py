"""Batches of similar length, the same on every rank."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llava.data.sampler import LengthGroupedSampler


@given(
    st.lists(st.integers(1, 500).flatmap(lambda n: st.sampled_from([n, -n])), max_size=60),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
)
def test_every_sample_comes_once(lengths, batch_size, world_size, group_by_modality):
    sampler = LengthGroupedSampler(batch_size, world_size, lengths, group_by_modality=group_by_modality)
    assert sorted(sampler) == list(range(len(lengths))) and len(sampler) == len(lengths)


def test_batches_hold_one_modality_but_for_the_leftovers():
    lengths = [n + 1 for n in range(37)] + [-(n + 1) for n in range(22)]
    order = list(LengthGroupedSampler(4, 2, lengths, group_by_modality=True, seed=3))
    groups = [order[start : start + 8] for start in range(0, len(order), 8)]
    mixed = [group for group in groups if len({lengths[n] > 0 for n in group}) > 1]
    assert len(mixed) <= 2 and all(group in groups[-2:] for group in mixed)


def test_the_batches_of_a_step_have_similar_length():
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(10, 500, (64 * 8,), generator=draw).tolist()
    order = list(LengthGroupedSampler(4, 8, lengths, seed=1))
    plain = torch.randperm(len(lengths), generator=draw).tolist()

    def spread(order):
        totals = torch.tensor([float(lengths[n]) for n in order]).view(-1, 8, 4).sum(2)
        return (totals.max(1).values - totals.min(1).values).mean()

    assert spread(order) < spread(plain) / 3


def test_order_follows_from_seed_and_epoch_alone():
    lengths = list(range(1, 100))
    make = lambda seed: LengthGroupedSampler(4, 2, lengths, seed=seed)  # noqa: E731
    first = make(5)
    epochs = [list(first), list(first)]
    assert epochs[0] != epochs[1] and epochs[0] != list(make(6))
    other = make(5)
    torch.manual_seed(99)
    assert [list(other), list(other)] == epochs
    other.set_epoch(1)
    assert list(other) == epochs[1]
    given_generator = LengthGroupedSampler(4, 2, lengths, generator=torch.Generator().manual_seed(5))
    assert list(given_generator) == epochs[0]


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError):
        LengthGroupedSampler(0, 1, [1])
    with pytest.raises(ValueError):
        LengthGroupedSampler(1, 1, [1, 0], group_by_modality=True)
