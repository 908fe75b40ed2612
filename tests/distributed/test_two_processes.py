"""One process and two (gloo) train the same model from the same samples."""

import json
import os
from pathlib import Path

import pytest
import torch
from forked import run_ranks
from safetensors.torch import load_file
from tiny import make_tiny_training, weighted_words


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_tiny_training(tmp_path_factory.mktemp("two_processes"), 22)  # of a global batch of 8, the last is short


def train(repository: Path, place: Path, output: Path, processes: int, per_device: int, *flags: object) -> list[dict]:
    length = ("--num_train_epochs", 2, "--per_device_train_batch_size", per_device)
    others = ("--save_strategy", "no", "--no_cuda", True)
    words = [str(repository / "llava/train/train.py"), *weighted_words(place, output, *length, *others, *flags)]
    codes, err = run_ranks(words, processes, os.environ | {"PYTHONPATH": str(repository)}, repository)
    assert not any(codes), err[-3000:]
    return [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]


def test_two_processes_and_accumulation_train_the_model_of_one_process(repository, place, tmp_path):
    one = train(repository, place, tmp_path / "one", 1, 8)
    for name, processes, per_device, flags in (
        ("two", 2, 4, ()),
        ("accumulated", 2, 1, ("--gradient_accumulation_steps", "4")),
    ):
        several = train(repository, place, tmp_path / name, processes, per_device, *flags)
        assert [line["loss"] for line in several] == pytest.approx([line["loss"] for line in one], abs=2e-5)
        assert [line["tasks"]["Chat"]["tokens"] for line in several] == [
            line["tasks"]["Chat"]["tokens"] for line in one
        ]
        a, b = (load_file(tmp_path / folder / "model.safetensors") for folder in ("one", name))
        for key in a:
            torch.testing.assert_close(a[key], b[key], atol=2e-5, rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("sampling", ["proportional", "sqrt", "temperature:2", "weights"])
def test_two_processes_draw_the_samples_that_one_draws(repository, place, tmp_path, sampling):
    flags = ("--task_sampling", sampling)
    one = train(repository, place, tmp_path / "one", 1, 8, *flags)
    two = train(repository, place, tmp_path / "two", 2, 2, "--gradient_accumulation_steps", "2", *flags)
    counts, others = (
        [{name: task["tokens"] for name, task in line["tasks"].items()} for line in log] for log in (one, two)
    )
    assert counts == others
    a, b = (load_file(tmp_path / folder / "model.safetensors") for folder in ("one", "two"))
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=2e-5, rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}")
    if sampling == "proportional":
        train(repository, place, tmp_path / "plain", 1, 8)
        plain = load_file(tmp_path / "plain" / "model.safetensors")
        assert all(torch.equal(plain[key], a[key]) for key in a), "bit-equal to a training without the flag"
