"""Training runs of the reference, step by step, through our own entry point.

The reference drew its order from torch's RandomSampler; the recorded order is fed instead of imitated.
"""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from llava.train import train as entry
from llava.train.llava_trainer import LLaVATrainer

TASKS = ("ShareGPT4V", "RefCOCO-caption", "VQAv2")
RUNS = (
    "main",
    "equal_weights",
    "task_balancing",
    "accumulate2",
    "projector_only",
    "projector_lr_and_decay",
    "gradient_checkpointing",
)


@pytest.fixture(scope="module")
def recorded(golden):
    return json.loads((golden / "train_trajectory.json").read_text())


def benchmark(folder: Path) -> Path:
    files = {"train": "train.json", "val": "val.json", "test": "test.json"}
    content = {
        "name": "golden",
        "data_folder": ".",
        "image_folder": ".",
        "tasks": [{"name": name, "metric": "exact_match", "files": files} for name in TASKS],
    }
    path = folder / "golden.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("name", RUNS)
def test_losses_gradient_norms_and_final_weights_are_the_references(golden, recorded, name, tmp_path, monkeypatch):
    run = recorded[name]
    order = [index for batch in run["micro_batches"] for index in batch["sample_indices"]]
    monkeypatch.setattr(LLaVATrainer, "epoch_order", lambda self, epoch: order)
    norms = []
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda *a, **k: norms.append(float(clip(*a, **k))) or torch.tensor(norms[-1])
    )
    monkeypatch.chdir(golden)
    output = tmp_path / "model"
    argv = [str(output) if word == "OUTPUT_DIR" else word for word in run["argv"][1:]]
    argv += ["--benchmark", str(benchmark(tmp_path)), "--loss_normalization", "batch", "--decay_norm_weights", "True"]
    with pytest.warns(UserWarning, match="weakens the task weights"):
        assert entry.train(argv) == 0

    log = [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in log] == pytest.approx(run["step_losses"], abs=1e-4)
    assert norms == pytest.approx(run["grad_norms_before_clipping"], rel=1e-3)
    if name == "projector_only":
        final = torch.load(output / "mm_projector.bin", weights_only=True)
        assert sorted(final) == sorted(run["saved_keys"])
    else:
        final = load_file(output / "model.safetensors")
        assert sorted(final) == sorted(run["saved_keys"])
    # The recording has norms of parameters only; the rest of the state are rotary buffers.
    norms = {key: float(final[key].float().norm()) for key in run["final_parameter_norms"] if key in final}
    assert len(norms) == len([key for key in final if "inv_freq" not in key and "position_ids" not in key])
    assert norms == pytest.approx({key: run["final_parameter_norms"][key] for key in norms}, rel=1e-5)
