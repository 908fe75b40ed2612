"""Every strategy in one process and in two (gloo): the same weights, losses and model. One launch for all of them."""

import pytest
import torch
import transformers
from forked import run_as_ranks
from sentences import make_trainer

from transformers_patch import build_weighter

STRATEGIES = {"EWTB": {}, "RLW": {}, "DWA": {"window": 2}, "IGB": {"window": 2}, "UW": {"lr": 0.05}}
ONE_PROCESS = (8, 1)  # samples of a micro-batch, micro-batches of a step
TWO_PROCESSES = {"2x4": (4, 1), "2x2x2": (2, 2)}


class KeepWeights(transformers.TrainerCallback):
    """The weights after each step, those of the next step."""

    def __init__(self, weighter):
        self.weighter, self.weights = weighter, []

    def on_step_end(self, args, state, control, **kwargs):
        self.weights.append(self.weighter.weight_K.clone())


def train(folder, name, split, normalization="step"):
    weighter = build_weighter(name, 3, **STRATEGIES[name])
    keep = KeepWeights(weighter)
    run = make_trainer(
        folder,
        weighter,
        normalization=normalization,
        callbacks=[keep],
        per_device_train_batch_size=split[0],
        gradient_accumulation_steps=split[1],
        num_train_epochs=3,  # steps of 8, 8 and 6 samples, three times
    )
    run.train()
    return {"weights": torch.stack(keep.weights), "model": run.model.state_dict()}


def train_all_as_rank(rank, folder):
    torch.set_num_threads(1)
    results = {}
    for name in STRATEGIES:
        for label, split in TWO_PROCESSES.items():
            results[name, label] = train(folder / f"{name}-{label}", name, split)
        results[name, "batch"] = train(folder / f"{name}-batch", name, (4, 1), "batch")
    torch.save(results, folder / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strategies")
    run_as_ranks(train_all_as_rank, 2, folder)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", STRATEGIES)
def test_two_processes_have_the_weights_and_the_model_of_one(ranks, name, tmp_path):
    one = train(tmp_path, name, ONE_PROCESS)
    assert name == "EWTB" or not torch.equal(one["weights"][-1], torch.ones(3))
    for label in TWO_PROCESSES:
        first, second = (rank[name, label] for rank in ranks)
        assert torch.equal(first["weights"], second["weights"])
        torch.testing.assert_close(first["weights"], one["weights"], atol=2e-5, rtol=2e-5)
        for key, value in one["model"].items():
            assert torch.equal(first["model"][key], second["model"][key])
            torch.testing.assert_close(
                first["model"][key], value, atol=2e-5, rtol=1e-4, msg=lambda t, k=key: f"{k}: {t}"
            )


@pytest.mark.parametrize("name", STRATEGIES)
def test_ranks_agree_on_the_weights_with_batch_normalization_too(ranks, name):
    first, second = (rank[name, "batch"]["weights"] for rank in ranks)
    assert torch.equal(first, second)
    assert name == "EWTB" or not torch.equal(first[-1], torch.ones(3))
