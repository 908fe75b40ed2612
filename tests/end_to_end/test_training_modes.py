"""Every training mode through the real entry point (in this process) and the scripts, on tiny models."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from forked import given_by, run_forked
from safetensors.torch import load_file
from tiny import make_tiny_checkpoint, make_tiny_training, training_words

from llava.model.adapter import read_adapter
from llava.model.builder import load_pretrained_model
from llava.train import saving, training
from llava.train import train as entry
from llava.train.llava_trainer import LLaVATrainer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Base models and data, of which one record has two images; besides, the text-only records alone."""
    folder = make_tiny_training(tmp_path_factory.mktemp("modes"), 24)
    records = json.loads((folder / "data.json").read_text())
    question = {"from": "human", "value": "<image>\n<image>\nWhat changed?"}
    records.append(
        {
            "id": "pair",
            "image": [records[0]["image"], records[1]["image"]],
            "task": "Chat",
            "conversations": [question, {"from": "gpt", "value": "The colour."}],
        }
    )
    (folder / "data.json").write_text(json.dumps(records))
    (folder / "text.json").write_text(json.dumps([record for record in records if "image" not in record]))
    return folder


@pytest.fixture
def trainers(monkeypatch):
    """The trainers of the trainings of a test, as they were when their model was saved."""
    found = []
    monkeypatch.setattr(training, "save_final_model", lambda t: found.append(t) or saving.save_final_model(t))
    return found


def train(place: Path, output: Path, *flags, base: str = "llama", steps: int = 2) -> int:
    more = ("--max_steps", steps, "--per_device_train_batch_size", 4, "--learning_rate", 1e-2, "--save_strategy", "no")
    return entry.train(training_words(place, output, "--model_name_or_path", place / base, *more, *flags))


def loaded(output: Path, base: Path | None, name: str):
    tokenizer, model, _, _ = load_pretrained_model(str(output), base and str(base), name, device="cpu", device_map=None)
    return tokenizer, model


def answers(model, images: torch.Tensor) -> torch.Tensor:
    """Greedy answers [3, 12] to three prompts with one image each."""
    draw = torch.Generator().manual_seed(9)
    input_ids = torch.randint(3, 380, (3, 8), generator=draw)
    input_ids[:, 1] = -200
    with torch.inference_mode():
        return model.eval().generate(input_ids=input_ids, images=images, max_new_tokens=12, do_sample=False)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    "base, flags",
    [
        ("llama", ("--mm_use_im_start_end", "True", "--group_by_modality_length", "True")),
        ("llava-tiny", ("--mm_projector_lr", "1e-3", "--save_safetensors", "False", "--version", "v0")),
        ("tuned", ("--freeze_mm_mlp_adapter", "True", "--lora_bias", "all", "--group_by_length", "True")),
    ],
)
def test_a_saved_lora_folder_answers_as_the_trained_model(place, tmp_path, trainers, images, base, flags):
    """`tuned`: a LLaVA checkpoint with the vision tower's weights inside, as our own trainings write it."""
    if base == "tuned":
        make_tiny_checkpoint(tmp_path / "tuned", tower_inside=True)
        place = shutil.copytree(place, tmp_path / "place")
        shutil.copytree(tmp_path / "tuned" / "llava-tiny", place / "tuned")
    output = tmp_path / "llava-lora"
    assert train(place, output, "--lora_enable", "True", "--lora_r", "4", *flags, base=base, steps=3) == 0
    trained = trainers[0].model
    remembered = answers(trained, images)
    _, model = loaded(output, place / base, "llava-lora")
    assert torch.equal(remembered, answers(model, images))
    for (name, value), other in zip(
        trained.merge_and_unload().state_dict().items(), model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, other, atol=1e-6, rtol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    plain = loaded(place / "llava-tiny", None, "llava-tiny")[1]
    assert not torch.equal(answers(plain, images), answers(model, images))


class Killed(Exception):  # noqa: N818 - stands for a signal
    """Ends a training in the middle."""


@pytest.mark.parametrize("sampling", ["proportional", "sqrt", "temperature:2", "weights"])
def test_a_resumed_lora_training_ends_with_the_uninterrupted_model(place, tmp_path, monkeypatch, sampling):
    flags = (
        "--task_sampling",
        sampling,
        "--benchmark",
        str(place / "tiny.yaml"),
        *("--visatb_weights", "0.5", "1.5", "1.2", "1.0"),
        "--lora_enable",
        "True",
        "--lora_r",
        "4",
        "--save_strategy",
        "steps",
        "--save_steps",
        "2",
        "--bf16",
        "True",
    )
    flags += ("--mm_use_im_start_end", "True")
    assert train(place, tmp_path / "whole", *flags, steps=5) == 0
    step = LLaVATrainer.training_step

    def stop_in_the_fourth(self, *given):
        if self.state.global_step == 3:
            raise Killed
        return step(self, *given)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(LLaVATrainer, "training_step", stop_in_the_fourth)
        train(place, tmp_path / "killed", *flags, steps=5)
    # The first attempt's lock is still held by this process.
    shutil.copytree(tmp_path / "killed", tmp_path / "again", ignore=shutil.ignore_patterns(".lock"))
    taken = []
    monkeypatch.setattr(LLaVATrainer, "training_step", lambda self, *given: taken.append(1) or step(self, *given))
    assert train(place, tmp_path / "again", *flags, steps=5) == 0
    assert len(taken) == 3  # after checkpoint-2
    one, other = read_adapter(tmp_path / "whole"), read_adapter(tmp_path / "again")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_signal_after_the_model_is_saved_stops_nothing(place, tmp_path, monkeypatch):
    def signalled(folder, **facts):
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL  # which would end this process
        os.kill(os.getpid(), signal.SIGTERM)
        finish(folder, **facts)

    finish = training.RunFolder.finish
    monkeypatch.setattr(training.RunFolder, "finish", signalled)
    assert train(place, tmp_path / "model", steps=1) == 0
    assert json.loads((tmp_path / "model" / "visatb_run.json").read_text())["finished"]


def test_lora_training_starts_from_an_earlier_adapter(place, tmp_path, trainers):
    lora = ("--lora_enable", "True", "--lora_r", "4")
    assert train(place, tmp_path / "first", *lora) == 0
    still = ("--learning_rate", "0", "--lora_weight_path", tmp_path / "first")
    assert train(place, tmp_path / "second", *lora, *still, steps=1) == 0
    one, other = read_adapter(tmp_path / "first"), read_adapter(tmp_path / "second")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_frozen_parts_stay_as_they_were(place, tmp_path):
    given = ("--pretrain_mm_mlp_adapter", place / "mm_projector.bin", "--gradient_checkpointing", "True")
    both = ("--freeze_backbone", "True", "--freeze_mm_mlp_adapter", "True")
    assert train(place, tmp_path / "head", *given, *both) == 0
    saved = load_file(tmp_path / "head" / "model.safetensors")
    before = load_file(place / "llava-tiny" / "model.safetensors")
    moved = {name for name, value in before.items() if not torch.equal(saved[name], value)}
    assert moved == {"lm_head.weight"}


def test_stage_1_trains_projector_and_new_embeddings_for_stage_2(place, tmp_path):
    tokens = ("--mm_use_im_start_end", "True")
    assert train(place, tmp_path / "one", *tokens, "--tune_mm_mlp_adapter", "True") == 0
    projector = tmp_path / "one" / "mm_projector.bin"
    stage_1 = torch.load(projector, weights_only=True)
    assert stage_1["model.embed_tokens.weight"].shape[0] == 392
    flags = (
        *tokens,
        "--pretrain_mm_mlp_adapter",
        projector,
        "--lora_enable",
        "True",
        "--freeze_mm_mlp_adapter",
        "True",
    )
    assert train(place, tmp_path / "two", *flags, steps=1) == 0
    stage_2 = read_adapter(tmp_path / "two")
    for name in ("mm_projector.0.weight", "mm_projector.2.bias"):
        assert torch.equal(stage_2[f"base_model.model.model.{name}"], stage_1[f"model.{name}"])
    rows = stage_2["base_model.model.model.embed_tokens.weight"][-2:]
    assert torch.equal(rows, stage_1["model.embed_tokens.weight"][-2:])


@pytest.mark.parametrize("lora", [False, True])
def test_text_alone_is_trained_on_with_and_without_a_vision_tower(place, tmp_path, lora):
    flags = ("--data_path", place / "text.json", "--lora_enable", lora, "--mm_use_im_patch_token", "True")
    assert train(place, tmp_path / "seeing", *flags, "--gradient_checkpointing", "True", steps=1) == 0
    output = tmp_path / "blind"
    assert train(place, output, *flags, "--vision_tower", "", steps=1) == 0
    assert (output / ("adapter_model.safetensors" if lora else "model.safetensors")).is_file()


def test_batches_grouped_by_length_read_each_image_once(place, tmp_path, monkeypatch):
    from llava.data.dataset import SupervisedDataset

    read = []
    get = SupervisedDataset._images
    monkeypatch.setattr(SupervisedDataset, "_images", lambda self, index: read.append(index) or get(self, index))
    flags = ("--group_by_length", "True", "--num_train_epochs", "1", "--per_device_train_batch_size", "8")
    assert train(place, tmp_path / "model", *flags, steps=-1) == 0
    assert sorted(read) == list(range(25))


def script(repository: Path, name: str, place: Path, output: Path, *flags: str, **variables: str):
    env = {
        "DATA_PATH": place / "data.json",
        "IMAGE_FOLDER": place / "images",
        "OUTPUT_DIR": output,
        "VISION_TOWER": place / "vision_tower",
        "PER_DEVICE_TRAIN_BATCH_SIZE": 4,
        "MODEL_MAX_LENGTH": 256,
        "DATALOADER_NUM_WORKERS": 0,
        "SAVE_STRATEGY": "no",
        "REPORT_TO": "none",
        "NUM_GPUS": 0,
        "PYTHON": sys.executable,
        **variables,
    }
    env = os.environ | {key: str(value) for key, value in env.items()}
    command = ["bash", str(repository / "scripts_visatb" / name), "--max_steps", "1", *flags]
    return run_forked(*given_by(command, env, repository), repository)


def test_finetune_task_lora_needs_no_benchmark_projector_or_tower(repository, place, tmp_path):
    own = {"BASE_MODEL_PATH": place / "llava-tiny", "VISION_TOWER": ""}
    done = script(repository, "finetune_task_lora.sh", place, tmp_path, "--lora_r", "4", **own)
    assert done.returncode == 0, done.stderr
    assert "task all" in done.stdout
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 256, 0.05)
    run = json.loads((tmp_path / "visatb_run.json").read_text())["fingerprint"]
    assert (run["learning_rate"], run["mm_projector_lr"], run["group_by_modality_length"]) == (2e-4, 2e-5, True)
    assert (run["vision_tower"], run["mm_vision_select_layer"]) == (str(place / "vision_tower"), -2)
    assert run["vision_tower_content"]


def test_finetune_qlora_is_refused_in_one_line_without_a_gpu(repository, place, tmp_path):
    output = tmp_path / "model"
    done = script(
        repository, "finetune_qlora.sh", place, output, BASE_MODEL_PATH=place / "llama", DATA_PATH=place / "data.json"
    )
    assert done.returncode == 2 and done.stderr.strip().startswith("error: --bits 4 needs an NVIDIA GPU")
    assert not output.exists()
