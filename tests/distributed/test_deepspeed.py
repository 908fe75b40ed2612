"""Two ranks under ZeRO-3 (on CPU, over gloo) train, save and resume the model of one process."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_tiny_checkpoint, make_tiny_dataset

from llava.model.adapter import read_adapter

# DeepSpeed would compile its shared-memory collectives first, which takes minutes and needs a compiler.
ENTRY = """
import deepspeed
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
from deepspeed.runtime.zero.config import ZeroStageEnum
ZeroStageEnum.__reduce_ex__ = lambda stage, _: (getattr, (ZeroStageEnum, stage.name))  # that of Python 3.11.2
from llava.train.train import main
from visatb.cli import run
run(main)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, repository):
    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("deepspeed"))
    make_tiny_dataset(folder, 22, "data.json")
    tasks = [
        {"name": name, "weight": 1.0, "files": {"train": "data.json"}}
        for name in ("SceneCaption", "ShapeVQA", "Grounding", "Chat")
    ]
    content = {"name": "tiny", "data_folder": ".", "image_folder": ".", "tasks": tasks}
    (folder / "tiny.yaml").write_text(json.dumps(content))  # JSON is YAML
    (folder / "entry.py").write_text(ENTRY)
    config = json.loads((repository / "scripts_visatb" / "zero3.json").read_text())
    # Else the tiny parameters are never partitioned, and nothing that partitioning can break would be seen.
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    (folder / "zero3.json").write_text(json.dumps(config))
    return folder


def train(repository: Path, place: Path, output: Path, *flags: str, ranks: int = 2) -> list[dict]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    command = [
        sys.executable, *launcher, str(place / "entry.py"),
        "--model_name_or_path", str(place / "llama"), "--version", "v1", "--benchmark", str(place / "tiny.yaml"),
        "--data_path", str(place / "data.json"), "--image_folder", str(place / "images"),
        "--vision_tower", str(place / "vision_tower"), "--pretrain_mm_mlp_adapter", str(place / "mm_projector.bin"),
        "--mm_projector_type", "mlp2x_gelu", "--mm_vision_select_layer", "-2", "--mm_use_im_patch_token", "False",
        "--image_aspect_ratio", "pad", "--output_dir", str(output), "--report_to", "none", "--learning_rate", "1e-3",
        "--logging_steps", "1", "--visatb_weights", "0.5", "1.5", "1.2", "1.0", *flags,
    ]  # fmt: skip
    if ranks > 1:
        command += ["--deepspeed", str(place / "zero3.json")]
    env = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, err = process.communicate(timeout=200)
    except subprocess.TimeoutExpired:  # ranks that wait for each other
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, err[-3000:]
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
    one = train(
        repository,
        place,
        tmp_path / "one",
        "--per_device_train_batch_size",
        "8",
        "--save_strategy",
        "no",
        *length,
        ranks=1,
    )
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
