"""Trainings of current models on one GPU; skipped where there is none."""

import json
import math

import pytest
import torch

import inference_visatb
from tests.hf.test_train import STEPS, argv, base, finish, lines, start
from tests.hf.tiny_folders import make_folder, make_questions
from visatb_hf.train import train
from visatb_hf.training import ChatTrainer

__all__ = ["base"]  # the fixture
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
FLAGS = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2", "--logging_steps", "1"]
FLAGS += ["--model_max_length", "128", "--save_steps", "2", "--report_to", "none", "--num_train_epochs", "1"]


def words(base, output, *more) -> list[str]:
    """The command line of a training on the GPU."""
    given = argv(base, output, "--benchmark", str(base / "data" / "tiny.yaml"), *FLAGS, *more)
    place = given.index("--use_cpu")
    return given[:place] + given[place + 2 :]


@pytest.mark.parametrize("method", ["EW", "DWA", "UW"])
def test_a_gpu_trains_as_the_cpu(base, tmp_path, method):
    more = ["--weight_method", method, "--learning_rate", "1e-3"]
    assert train([*words(base, tmp_path / "cpu", *more), "--use_cpu", "True"]) == 0
    assert train(words(base, tmp_path / "gpu", *more)) == 0
    on_cpu, on_gpu = ([line["loss"] for line in lines(tmp_path / name)] for name in ("cpu", "gpu"))
    assert len(on_gpu) == STEPS and on_gpu == pytest.approx(on_cpu, rel=1e-4)


class StoppedError(Exception):
    """Ends a training in the middle."""


@pytest.mark.parametrize("bits", ["16", "8", "4"])
def test_adapters_on_a_quantised_base_train_and_resume(base, tmp_path, monkeypatch, bits):
    if bits != "16":
        pytest.importorskip("bitsandbytes")
    output, step = tmp_path / "model", ChatTrainer.training_step
    flags = words(base, output, "--bits", bits, "--lora_enable", "True", "--lora_r", "4", "--bf16", "True")

    def stopping(trainer, *args, **kwargs):
        if trainer.state.global_step == 3:
            raise StoppedError
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ChatTrainer, "training_step", stopping)
        with pytest.raises(StoppedError):
            train(flags)
    assert train(flags) == 0
    found = [line["loss"] for line in lines(output)]
    assert len(found) == STEPS and all(map(math.isfinite, found))
    assert (output / "adapter_model.safetensors").is_file()
    assert json.loads((output / "visatb_run.json").read_text())["finished"]


def test_zero3_which_is_the_default_trains_in_bf16(base, tmp_path):
    settings = {"NUM_GPUS": "1", "LEARNING_RATE": "1e-3"}
    finish(start(base, tmp_path / "zero3", **settings))
    finish(start(base, tmp_path / "plain", DEEPSPEED_CONFIG="none", LAUNCHER="torchrun", **settings))
    zero3, plain = ([line["loss"] for line in lines(tmp_path / name)] for name in ("zero3", "plain"))
    assert len(zero3) == STEPS and zero3 == pytest.approx(plain, rel=3e-2)


@pytest.mark.parametrize("batch_size", ["1", "5"])
def test_a_gpu_answers_as_the_cpu(tmp_path, batch_size):
    questions = make_questions(tmp_path / "data")
    words = ["--engine", "hf", "--model-path", str(make_folder(tmp_path / "tiny")), "--dtype", "fp32"]
    words += ["--question-file", str(questions), "--image-folder", str(questions.parent / "images")]
    words += ["--max_new_tokens", "8"]
    on_gpu = ["--batch-size", batch_size, "--answers-folder", str(tmp_path / "gpu")]
    assert inference_visatb.main([*words, *on_gpu]) == 0
    assert inference_visatb.main([*words, "--device", "cpu", "--answers-folder", str(tmp_path / "cpu")]) == 0
    found, expected = (next((tmp_path / name).glob("*.json")).read_bytes() for name in ("gpu", "cpu"))
    assert found == expected
