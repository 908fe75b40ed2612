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


# Share of the records, patches, median of the text's tokens and its spread: seven tasks with images, one without.
MIX = [(0.24, 576, 60, 0.3), (0.12, 576, 90, 0.4), (0.14, 576, 250, 0.6), (0.22, 576, 350, 0.5), (0.1, 576, 130, 0.8)]
MIX += [(0.05, 576, 80, 0.2), (0.05, 576, 20, 0.2), (0.08, 0, 700, 1.0)]


@pytest.fixture(scope="module")
def mix():
    """Lengths of 8192 samples, negative without an image, and their tasks."""
    draw = torch.Generator().manual_seed(0)
    lengths, tasks = [], []
    for task, (share, patches, median, spread) in enumerate(MIX):
        text = (torch.randn(round(share * 8192), generator=draw) * spread).exp() * median
        lengths += [(1 if patches else -1) * min(int(n) + patches, 2048) for n in text]
        tasks += [task] * len(text)
    return lengths, tasks


def steps(order, batch, batches):
    return torch.tensor(order[: len(order) // (batch * batches) * batch * batches]).view(-1, batches, batch)


def padding(order, lengths, batch, batches):
    length = torch.tensor(lengths).abs()[steps(order, batch, batches)]
    return 1 - float(length.sum() / (length.max(dim=2).values * batch).sum())


@pytest.mark.parametrize("batch, batches, at_most", [(16, 8, 0.17), (4, 8, 0.12), (4, 32, 0.04)])
@pytest.mark.parametrize("by_modality", [False, True])
def test_batches_of_similar_length_pad_a_third_of_random_ones(mix, batch, batches, at_most, by_modality):
    lengths, _ = mix
    order = list(LengthGroupedSampler(batch, batches, lengths, group_by_modality=by_modality))
    plain = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(1)).tolist()
    assert padding(order, lengths, batch, batches) < min(at_most, 0.4 * padding(plain, lengths, batch, batches))


def test_a_step_holds_the_samples_it_would_hold_whatever_their_lengths(mix):
    lengths, tasks = mix
    by_length = steps(list(LengthGroupedSampler(16, 8, lengths)), 16, 8)
    any_length = steps(list(LengthGroupedSampler(16, 8, [1] * len(lengths))), 16, 8)
    assert torch.equal(by_length.flatten(1).sort().values, any_length.flatten(1).sort().values)
    assert all(len(torch.tensor(tasks)[step].unique()) >= 7 for step in by_length)


def test_without_padding_the_batches_of_a_step_are_equally_long(mix):
    lengths, _ = mix

    def spread(order):
        totals = torch.tensor(lengths).abs()[steps(order, 16, 8)].sum(dim=2).double()
        return float((totals.max(1).values / totals.mean(1)).mean())

    plain = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(1)).tolist()
    assert spread(list(LengthGroupedSampler(16, 8, lengths, padded=False))) < 1.02 < 1.1 < spread(plain)


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
