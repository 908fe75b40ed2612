"""scripts_visatb/finetune_hf.sh on one GPU; skipped where there is none."""

import math

import pytest
import torch

from tests.hf.test_train import STEPS, base, finish, lines, start, wait_for

__all__ = ["base"]  # the fixture
ALONE = {"NUM_GPUS": "1", "DEEPSPEED_CONFIG": "none", "LAUNCHER": "torchrun"}
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.parametrize("method", ["EW", "UW"])
def test_a_gpu_trains_as_the_cpu(base, tmp_path, method):
    settings = {"LEARNING_RATE": "1e-3", "WEIGHT_METHOD": method}
    settings |= {"VISATB_WEIGHTS": ""} if method == "UW" else {}
    finish(start(base, tmp_path / "cpu", **settings))
    finish(start(base, tmp_path / "gpu", "--bf16=False", "--tf32=False", **(settings | ALONE)))
    on_cpu, on_gpu = ([line["loss"] for line in lines(tmp_path / name)] for name in ("cpu", "gpu"))
    assert len(on_gpu) == STEPS and on_gpu == pytest.approx(on_cpu, rel=1e-3)


@pytest.mark.parametrize("bits", ["16", "8", "4"])
def test_adapters_on_a_quantised_base_train_and_resume(base, tmp_path, bits):
    if bits != "16":
        pytest.importorskip("bitsandbytes")
    settings = ALONE | {"BITS": bits, "LORA_ENABLE": "True", "LORA_R": "4"}
    output = tmp_path / "model"
    process = start(base, output, **settings)
    wait_for(output / "checkpoint-2", process)
    process.kill()
    finish(process, -9)
    out, _ = finish(start(base, output, **settings))
    assert "resuming from" in out
    found = [line["loss"] for line in lines(output)]
    assert len(found) == STEPS and all(map(math.isfinite, found))
    assert (output / "adapter_model.safetensors").is_file()


def test_zero3_which_is_the_default_trains_in_bf16(base, tmp_path):
    finish(start(base, tmp_path / "zero3", NUM_GPUS="1", LEARNING_RATE="1e-3"))
    finish(start(base, tmp_path / "plain", LEARNING_RATE="1e-3", **ALONE))
    zero3, plain = ([line["loss"] for line in lines(tmp_path / name)] for name in ("zero3", "plain"))
    assert len(zero3) == STEPS and zero3 == pytest.approx(plain, rel=3e-2)
