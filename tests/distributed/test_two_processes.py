"""One process and two (gloo) train the same model from the same samples."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_tiny_checkpoint, make_tiny_dataset


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("two_processes"))
    make_tiny_dataset(folder, 22, "data.json")  # with a global batch of 8 the last step is short
    tasks = [
        {"name": name, "weight": 1.0, "files": {"train": "data.json"}}
        for name in ("SceneCaption", "ShapeVQA", "Grounding", "Chat")
    ]
    content = {"name": "tiny", "data_folder": ".", "image_folder": ".", "tasks": tasks}
    (folder / "tiny.yaml").write_text(json.dumps(content))  # JSON is YAML
    return folder


def train(repository: Path, place: Path, output: Path, processes: int, per_device: int, *flags: str) -> list[dict]:
    launcher = [sys.executable] if processes == 1 else [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
    ]  # fmt: skip
    command = [
        *launcher, str(repository / "llava/train/train.py"),
        "--model_name_or_path", str(place / "llama"), "--version", "v1", "--benchmark", str(place / "tiny.yaml"),
        "--data_path", str(place / "data.json"), "--image_folder", str(place / "images"),
        "--vision_tower", str(place / "vision_tower"), "--pretrain_mm_mlp_adapter", str(place / "mm_projector.bin"),
        "--mm_projector_type", "mlp2x_gelu", "--mm_vision_select_layer", "-2", "--mm_use_im_patch_token", "False",
        "--image_aspect_ratio", "pad", "--output_dir", str(output), "--save_strategy", "no", "--report_to", "none",
        "--num_train_epochs", "2", "--learning_rate", "1e-3", "--logging_steps", "1", "--no_cuda", "True",
        "--visatb_weights", "0.5", "1.5", "1.2", "1.0", "--per_device_train_batch_size", str(per_device), *flags,
    ]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
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
