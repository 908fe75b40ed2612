"""How samples are dealt out to steps, ranks and micro-batches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformers_patch.step_loader import ReadError, StepLayout, StepLoader

SIZES = st.integers(1, 5)


@given(st.integers(1, 60), SIZES, SIZES, SIZES)
def test_every_sample_is_read_once_whatever_the_split(samples, per_device, accumulation, world):
    layouts = [StepLayout(per_device, accumulation, world, rank) for rank in range(world)]
    order = list(range(100, 100 + samples))
    read = []
    for step in range(layouts[0].steps(samples)):
        for layout in layouts:
            micro_batches = layout.micro_batches(order, step)
            assert len(micro_batches) == accumulation and all(indices for indices, _ in micro_batches)
            read += [index for indices, counts in micro_batches if counts for index in indices]
    assert sorted(read) == order


@given(st.integers(1, 60), st.sampled_from([(8, 1, 1), (4, 1, 2), (4, 2, 1), (2, 2, 2), (1, 8, 1)]))
def test_a_step_has_the_same_samples_for_every_split(samples, split):
    order = list(range(samples))
    for step in range(StepLayout(8, 1).steps(samples)):
        parts = [StepLayout(*split, rank).micro_batches(order, step) for rank in range(split[2])]
        got = sorted(i for part in parts for indices, counts in part if counts for i in indices)
        assert got == order[step * 8 : step * 8 + 8]


def _loader(position=0, counted=None):
    return StepLoader(
        list(range(10)),
        lambda items: {"labels": torch.tensor([[item] * 3 for item in items])},
        StepLayout(2, 3),
        order_of_epoch=lambda epoch: [(i + epoch) % 10 for i in range(10)],
        position=lambda: position,
        count_tokens=counted,
    )


def test_an_interrupted_epoch_resumes_without_reading_again():
    whole = [batch["sample_indices"] for batch in _loader()]
    assert [batch["sample_indices"] for batch in _loader(position=1)] == whole[3:]
    assert [batch["sample_indices"] for batch in _loader(position=2)] == [
        [(i + 1) % 10 for i in indices] for indices in whole
    ]


def test_micro_batches_past_the_end_count_nothing_but_are_there():
    batches = list(_loader())
    assert len(batches) == len(_loader()) == 6
    assert batches[5]["sample_indices"] == [] and (batches[5]["labels"] == -100).all()


def test_reading_an_epoch_does_not_change_the_global_random_state():
    before = torch.random.get_rng_state()
    list(_loader())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_count_is_of_the_whole_window():
    batches = list(_loader(counted=lambda window: sum(batch["labels"].sum() for batch in window)))
    assert [int(batch["token_count_K"]) for batch in batches[:3]] == [3 * 15] * 3


class Broken(list):
    def __getitem__(self, n):
        if n == 7:
            raise KeyError("sample 7")
        return super().__getitem__(n)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_ends_the_epoch_before_its_step(workers):
    loader = _loader()
    loader.dataset, loader._loader_options = Broken(loader.dataset), {"num_workers": workers}
    read = []
    with pytest.raises(ReadError, match="KeyError") as ended:
        for batch in loader:
            read += batch["sample_indices"]
    assert read == list(range(6)) and isinstance(ended.value.__cause__, KeyError)
