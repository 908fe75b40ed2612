"""Two ranks under ZeRO-3 (on CPU, over gloo) train, save and resume the model of one process."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from forked import run_ranks
from safetensors.torch import load_file
from tiny import make_tiny_training, weighted_words

from llava.model.adapter import read_adapter

ENTRY = """
from deepspeed.runtime.zero.config import ZeroStageEnum
from llava.train.train import main
from visatb.cli import run
ZeroStageEnum.__reduce_ex__ = lambda stage, _: (getattr, (ZeroStageEnum, stage.name))  # that of Python 3.11.2
run(main)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, repository):
    folder = make_tiny_training(tmp_path_factory.mktemp("deepspeed"), 22)
    (folder / "entry.py").write_text(ENTRY)
    config = json.loads((repository / "scripts_visatb" / "zero3.json").read_text())
    # Else the tiny parameters are never partitioned, and nothing that partitioning can break would be seen.
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    (folder / "zero3.json").write_text(json.dumps(config))
    return folder


def train(repository: Path, place: Path, output: Path, *flags: object, ranks: int = 2) -> list[dict]:
    if ranks > 1:
        flags += ("--deepspeed", place / "zero3.json")
    words = [str(place / "entry.py"), *weighted_words(place, output, *flags)]
    codes, err = run_ranks(words, ranks, os.environ | {"PYTHONPATH": str(repository)}, repository)
    assert not any(codes), err[-3000:]
    return [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]


def assert_same_model(one: Path, other: Path, **tolerance: float) -> None:
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], **tolerance, msg=lambda text, key=key: f"{key}: {text}")


def facts(lines: list[dict]) -> list[tuple]:
    return [(line["step"], line["loss"], line["learning_rate"]) for line in lines]


def test_zero3_with_accumulation_equals_one_process_also_after_resume(repository, place, tmp_path):
    """One sample per micro-batch: a rank with an image works beside one without, and some find no sample left."""
    length = ("--num_train_epochs", "2")
    split = ("--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "4", "--save_strategy", "steps")
    split += ("--save_steps", "2", "--gradient_checkpointing", "True", *length)
    whole = ("--per_device_train_batch_size", "8", "--save_strategy", "no", *length)
    one = train(repository, place, tmp_path / "one", *whole, ranks=1)
    zero3 = train(repository, place, tmp_path / "zero3", *split)
    assert [line["loss"] for line in zero3] == pytest.approx([line["loss"] for line in one], abs=2e-5)
    assert_same_model(tmp_path / "one", tmp_path / "zero3", atol=1e-4, rtol=1e-3)

    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "zero3", killed)
    for name in ("checkpoint-4", "checkpoint-6"):
        shutil.rmtree(killed / name)
    (killed / "model.safetensors").unlink()
    run = json.loads((killed / "visatb_run.json").read_text())
    (killed / "visatb_run.json").write_text(json.dumps({"fingerprint": run["fingerprint"], "finished": False}))
    assert facts(train(repository, place, killed, *split)) == facts(zero3)
    assert_same_model(tmp_path / "zero3", killed, atol=0, rtol=0)


def test_zero3_trains_in_bfloat16_with_a_new_projector(repository, place, tmp_path):
    flags = ("--bf16", "True", "--per_device_train_batch_size", "2", "--max_steps", "1", "--save_strategy", "no")
    train(repository, place, tmp_path / "model", *flags)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert weights["model.mm_projector.0.weight"].dtype == torch.bfloat16
    assert all(value.numel() for value in weights.values())


def test_zero3_trains_and_saves_the_adapters_of_one_process(repository, place, tmp_path):
    """With tokens added: embeddings and lm_head, which are partitioned from the start, are saved beside them."""
    flags = ("--lora_enable", "True", "--lora_r", "4", "--lora_dropout", "0", "--mm_projector_lr", "1e-2")
    flags += ("--version", "v0", "--gradient_checkpointing", "True", "--max_steps", "2", "--save_strategy", "no")
    batches = (("--per_device_train_batch_size", "8"), ("--per_device_train_batch_size", "4"))
    one = train(repository, place, tmp_path / "one", *flags, *batches[0], ranks=1)
    zero3 = train(repository, place, tmp_path / "zero3", *flags, *batches[1])
    assert [line["loss"] for line in zero3] == pytest.approx([line["loss"] for line in one], abs=2e-5)
    a, b = read_adapter(tmp_path / "one"), read_adapter(tmp_path / "zero3")
    assert a.keys() == b.keys() and len(a) == 28 + 4 + 2
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
