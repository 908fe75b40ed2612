"""A training step asks the device for almost nothing: each time it does, the host would wait for a GPU."""

import pytest
import torch
from sentences import make_trainer
from torch.utils._python_dispatch import _disable_current_modes
from waits import Waits

from transformers_patch import build_weighter
from transformers_patch.step_loader import StepLoader


@pytest.fixture
def reading_does_not_count(monkeypatch):
    """What the loader does with its batches stays on the CPU."""
    for name in ("_read_step", "_with_counts"):
        original = getattr(StepLoader, name)

        def alone(*args, _original=original):
            with _disable_current_modes():
                return _original(*args)

        monkeypatch.setattr(StepLoader, name, alone)


def waits_of(folder, method, steps):
    settings = {"max_steps": steps, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    trainer = make_trainer(folder, build_weighter(method, 3), **settings, logging_steps=1000, optim="sgd")
    with Waits() as waits:
        trainer.train()
    return waits.found


@pytest.mark.parametrize("method", ["EW", "EWTB", "RLW", "DWA", "IGB", "UW"])
def test_a_step_waits_twice_and_its_micro_batches_never(tmp_path, method, reading_does_not_count):
    few, many = (waits_of(tmp_path / str(steps), method, steps) for steps in (2, 4))
    of_two_steps = many - few
    # All of the step's sums at once, and the gradient's norm.
    assert of_two_steps == {"tolist": 2, "_local_scalar_dense": 2}, of_two_steps


def test_what_waits_is_counted():
    values = torch.tensor([1.0, 0.0])
    with Waits() as waits:
        values.tolist()
        float(values[0])
        values[values > 0]
        values.nonzero()
    assert sum(waits.found.values()) >= 4 and waits.found["tolist"] == 1
