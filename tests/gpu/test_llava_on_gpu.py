"""The fork's real entry points on one GPU against the same on the CPU: python -m pytest tests/gpu"""

import json
from pathlib import Path

import pytest
import torch
from tiny import make_tiny_checkpoint, make_tiny_dataset, training_words

import inference_visatb
from llava.model.builder import load_pretrained_model
from llava.train import saving, training
from llava.train import train as entry
from llava.train.llava_trainer import LLaVATrainer
from transformers_patch import unpadded

STEPS = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("gpu"))
    make_tiny_dataset(folder, 48, "data.json")
    return folder


@pytest.fixture
def trainers(monkeypatch):
    """The trainers of a test, as they were when their model was saved."""
    found = []
    monkeypatch.setattr(training, "save_final_model", lambda t: found.append(t) or saving.save_final_model(t))
    return found


def train(place: Path, output: Path, *flags, base: str = "llama", steps: int = STEPS) -> None:
    more = ("--max_steps", steps, "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2)
    words = training_words(place, output, "--model_name_or_path", place / base, *more, "--save_strategy", "no", *flags)
    assert entry.train(words) == 0


def losses(trainer: LLaVATrainer) -> torch.Tensor:
    """The loss of each step."""
    return torch.tensor([line["loss"] for line in trainer.state.log_history if "loss" in line])


def trained(trainer: LLaVATrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().float().cpu().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


MODES = {
    "full": (),
    "checkpointing": ("--gradient_checkpointing", "True"),
    "padded": ("--padded_batches", "True"),
    "lora": ("--lora_enable", "True", "--lora_r", "4", "--lora_dropout", "0"),
    "projector": ("--tune_mm_mlp_adapter", "True"),
    "dwa": ("--weight_method", "DWA"),
    "igb": ("--weight_method", "IGB"),
    "uw": ("--weight_method", "UW"),
}


@pytest.fixture(autouse=True)
def exact_products():
    """transformers lets the matrix products of the process be TF32 where it compiles."""
    torch.backends.cuda.matmul.allow_tf32 = False


def compare(on_cpu: LLaVATrainer, on_gpu: LLaVATrainer, tolerance: float) -> None:
    assert on_gpu.args.device.type == "cuda" and on_cpu.args.device.type == "cpu"
    torch.testing.assert_close(losses(on_gpu), losses(on_cpu), rtol=tolerance, atol=tolerance)
    expected = trained(on_cpu)
    for name, value in trained(on_gpu).items():
        # AdamW divides by the size of a gradient: where that is rounding alone, so is the direction.
        far = (value - expected[name]).abs() > 2 * tolerance
        assert far.float().mean() < 0.01, name


@pytest.mark.parametrize("mode", MODES)
def test_a_gpu_trains_the_model_that_the_cpu_trains(place, tmp_path, trainers, mode):
    train(place, tmp_path / "cpu", "--no_cuda", "True", *MODES[mode])
    train(place, tmp_path / "gpu", *MODES[mode])
    compare(*trainers, tolerance=1e-4)


def test_compiled_layers_train_the_model_that_the_cpu_trains(place, tmp_path, trainers):
    train(place, tmp_path / "cpu", "--no_cuda", "True")
    train(place, tmp_path / "gpu", "--torch_compile", "True")
    compare(*trainers, tolerance=2e-3)


@pytest.mark.parametrize("size", [16, 100, 128, 320])
def test_attention_within_samples_takes_heads_of_any_size(size):
    draw, lengths = torch.Generator().manual_seed(0), (3, 17, 1, 40)
    row = torch.randn(3, 1, 4, sum(lengths), size, generator=draw)
    bounds = unpadded.SampleBounds(lengths, torch.tensor([0, 3, 20, 21, 61], dtype=torch.int32))
    expected = unpadded.attend_within_samples(*row, bounds)
    there = unpadded.SampleBounds(lengths, bounds.cumulative.cuda())
    found = unpadded.attend_within_samples(*row.to("cuda", torch.bfloat16), there)
    torch.testing.assert_close(found.float().cpu(), expected, rtol=2e-2, atol=3e-2)


def test_bf16_samples_laid_end_to_end_go_through_the_flash_kernel(place, tmp_path, trainers, monkeypatch):
    calls = []
    kernel = unpadded.varlen_attn
    monkeypatch.setattr(unpadded, "varlen_attn", lambda *a, **k: calls.append(1) or kernel(*a, **k))
    train(place, tmp_path / "laid", "--bf16", "True")
    train(place, tmp_path / "padded", "--bf16", "True", "--padded_batches", "True")
    laid, padded = map(losses, trainers)
    assert calls and len(laid) == STEPS
    torch.testing.assert_close(laid, padded, rtol=2e-2, atol=2e-2)


class StoppedError(Exception):
    """Ends a training in the middle."""


def stopped_at(last: int, monkeypatch, place: Path, output: Path, *flags) -> None:
    step = LLaVATrainer.training_step

    def stopping(trainer, *args, **kwargs):
        if trainer.state.global_step == last:
            raise StoppedError
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LLaVATrainer, "training_step", stopping)
        with pytest.raises(StoppedError):
            train(place, output, *flags)


def test_a_resumed_training_ends_with_the_uninterrupted_model(place, tmp_path, trainers, monkeypatch):
    flags = ("--bf16", "True", "--save_strategy", "steps", "--save_steps", "2")
    train(place, tmp_path / "whole", *flags)
    stopped_at(3, monkeypatch, place, tmp_path / "cut", *flags)
    train(place, tmp_path / "cut", *flags)
    whole, resumed = map(trained, trainers)
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("bits", [4, 8])
def test_qlora_trains_resumes_and_answers(place, tmp_path, trainers, monkeypatch, bits):
    pytest.importorskip("bitsandbytes")
    output = tmp_path / f"llava-lora-{bits}"
    flags = ("--bits", bits, "--bf16", "True", "--lora_enable", "True", "--lora_r", "4", "--gradient_checkpointing",
             "True", "--save_strategy", "steps", "--save_steps", "2")  # fmt: skip
    stopped_at(3, monkeypatch, place, output, *flags)
    train(place, output, *flags)
    found = losses(trainers[-1])
    assert len(found) == STEPS and found.isfinite().all()
    assert any(name.endswith("lora_B.default.weight") and value.any() for name, value in trained(trainers[-1]).items())
    _, model, _, _ = load_pretrained_model(str(output), str(place / "llama"), "llava-lora")
    draw = torch.Generator().manual_seed(9)
    input_ids = torch.randint(3, 380, (3, 8), generator=draw)
    input_ids[:, 1] = -200
    images = torch.randn(3, 3, 56, 56, generator=draw)
    with torch.inference_mode():
        answers = model.eval().generate(
            input_ids=input_ids.cuda(), images=images.to("cuda", model.dtype), max_new_tokens=12, do_sample=False
        )
    assert answers.shape[0] == 3 and answers.shape[1] > 0


def test_fused_adamw_is_the_default_on_a_gpu(place, tmp_path, trainers):
    train(place, tmp_path / "fused", steps=1)
    assert trainers[0].optimizer.optimizer.defaults["fused"]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_gpu_answers_as_the_cpu(place, tmp_path, monkeypatch, batch_size):
    argv = ["--model-path", str(place / "llava-tiny"), "--image-folder", str(place / "images"), "--question-file",
            str(place / "data.json"), "--max_new_tokens", "8", "--dtype", "fp32"]  # fmt: skip
    assert (
        inference_visatb.main([*argv, "--batch-size", str(batch_size), "--answers-folder", str(tmp_path / "gpu")]) == 0
    )
    assert inference_visatb.main([*argv, "--device", "cpu", "--answers-folder", str(tmp_path / "cpu")]) == 0
    on_gpu, on_cpu = (json.loads(next((tmp_path / name).glob("*.json")).read_text()) for name in ("gpu", "cpu"))
    assert on_gpu == on_cpu
