"""Drawing tasks at other rates: exact counts, every record in turn, and the same order on every rank."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformers_patch.task_sampling import TaskSampler, task_counts
from visatb.sampling import read_sampling

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=6)
SAMPLING = st.sampled_from(["sqrt", "temperature:1", "temperature:5", "temperature:0.5", "weights", "proportional"])


def tasks_of(sizes):
    return [k for k, size in enumerate(sizes) for _ in range(size)]


@given(SIZES, SAMPLING, st.data())
def test_an_epoch_keeps_its_size_and_each_task_its_rate(sizes, sampling, data):
    weights = data.draw(st.lists(st.floats(0.2, 5), min_size=len(sizes), max_size=len(sizes)))
    counts = task_counts(sizes, sampling, weights)
    assert sum(counts) == sum(sizes)
    kind, temperature = read_sampling(sampling)
    exponent = {"sqrt": 0.5, "temperature": 1 / temperature}.get(kind, 1.0)
    rates = [size**exponent * (weight if kind == "weights" else 1) for size, weight in zip(sizes, weights, strict=True)]
    for count, rate in zip(counts, rates, strict=True):
        assert abs(count - rate / sum(rates) * sum(sizes)) < 1 + 1e-9


def test_counts_of_the_four_kinds_are_those_by_hand():
    assert task_counts([100, 400], "proportional") == [100, 400]
    assert task_counts([100, 400], "sqrt") == [167, 333]  # 500 / 3, 1000 / 3
    assert task_counts([100, 400], "temperature:2") == [167, 333]
    assert task_counts([100, 400], "temperature:1") == [100, 400]
    assert task_counts([100, 400], "weights", [2.0, 1.0]) == [167, 333]
    assert task_counts([100, 0, 100], "temperature:5") == [100, 0, 100]


@given(SIZES, SAMPLING, st.integers(1, 6), st.integers(0, 9))
def test_no_record_is_lost_or_favoured_over_epochs(sizes, sampling, epochs, seed):
    counts = task_counts(sizes, sampling, [1.0 + k for k in range(len(sizes))])
    task_N = tasks_of(sizes)
    sampler = TaskSampler(task_N, counts, seed)
    seen = Counter()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert len(order) == len(sampler) == sum(sizes)
        assert Counter(task_N[n] for n in order) == Counter({k: count for k, count in enumerate(counts) if count})
        seen.update(order)
    for k, unread in enumerate(sampler.unread(epochs)):
        occurrences = [seen[n] for n, task in enumerate(task_N) if task == k]
        assert max(occurrences) - min(occurrences) <= 1
        assert occurrences.count(0) == unread


def test_the_order_follows_from_seed_and_epoch_alone():
    def orders(seed, epochs):
        sampler = TaskSampler(tasks_of([9, 30]), [20, 19], seed)
        found = []
        for epoch in epochs:
            sampler.set_epoch(epoch)
            found.append(list(sampler))
        return found

    straight = orders(3, [0, 1, 2])
    assert orders(3, [2, 0])[::-1] == [straight[0], straight[2]]
    assert orders(4, [0]) != straight[:1] and straight[0] != straight[1]


@pytest.mark.parametrize(
    "text", ["", "equal", "sqrt:2", "temperature", "temperature:", "temperature:0", "temperature:x", "temperature:nan"]
)
def test_another_sampling_is_refused_with_the_choices(text):
    with pytest.raises(ValueError, match="task_sampling must be proportional, sqrt, temperature:T with T in"):
        read_sampling(text)


@pytest.mark.parametrize("weights", [None, [1.0], [1.0, 0.0], [1.0, float("inf")]])
def test_sampling_by_weights_without_valid_weights_is_refused(weights):
    with pytest.raises(ValueError, match="must have 2 weights > 0"):
        task_counts([3, 4], "weights", weights)


def test_a_task_without_samples_cannot_be_drawn():
    with pytest.raises(ValueError, match="task 1 has 0 samples"):
        TaskSampler([0, 0], [1, 1])
