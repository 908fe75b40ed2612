"""scripts_visatb/finetune_hf.sh trains a tiny model on an annotation file: whole runs by the real command."""

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from forked import Forked, given_by, run_ranks
from safetensors.torch import load_file
from waiting import until

import inference_visatb
from tests.hf.tiny_llava import save_data, save_model
from visatb.errors import InputError
from visatb_hf import training
from visatb_hf.train import train

ROOT = Path(__file__).parents[2]
STEPS = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_data(folder / "data")
    save_model(folder / "model")
    return folder


def environment(base: Path, output: Path, **more: str) -> dict[str, str]:
    given = {
        "DATA_PATH": str(base / "data" / "train.json"),
        "IMAGE_FOLDER": str(base / "data" / "images"),
        "BASE_MODEL_PATH": str(base / "model"),
        "BENCHMARK": str(base / "data" / "tiny.yaml"),
        "OUTPUT_DIR": str(output),
        "VISATB_WEIGHTS": "0.5 2",
        "PER_DEVICE_TRAIN_BATCH_SIZE": "2",
        "GRADIENT_ACCUMULATION_STEPS": "2",
        "LEARNING_RATE": "1e-2",
        "DATALOADER_NUM_WORKERS": "0",
        "MODEL_MAX_LENGTH": "128",
        "SAVE_STEPS": "1",
        "NUM_GPUS": "0",
        "PYTHON_HF": sys.executable,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return os.environ | given | more


def given(base: Path, output: Path, *flags: str, **more: str) -> tuple[list[str], dict[str, str]]:
    script = ["bash", "scripts_visatb/finetune_hf.sh", *flags]
    return given_by(script, environment(base, output, **more), ROOT, "PYTHON_HF")


def start(base: Path, output: Path, *flags: str, **more: str) -> Forked:
    return Forked(*given(base, output, *flags, **more), ROOT)


def finish(process: Forked, code: int = 0) -> tuple[str, str]:
    out, err = process.communicate()
    assert process.returncode == code, err[-3000:]
    return out, err


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model.safetensors")


def lines(output: Path) -> list[dict]:
    kept = ("step", "loss", "tasks")
    return [{k: json.loads(line)[k] for k in kept} for line in (output / "train_log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "model"
    finish(start(base, output))
    return output


def test_a_run_leaves_a_whole_folder_and_is_not_repeated(base, whole):
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= set(os.listdir(whole))
    assert [line["step"] for line in lines(whole)] == list(range(1, STEPS + 1))
    assert {name: task["weight"] for name, task in lines(whole)[0]["tasks"].items()} == {"colour": 0.5, "words": 2.0}
    record = json.loads((whole / "visatb_run.json").read_text())
    assert record["finished"] and record["tasks"] == ["colour", "words"] and record["steps"] == STEPS
    before = (whole / "model.safetensors").stat().st_mtime_ns
    out, _ = finish(start(base, whole))
    assert "this run is finished" in out
    assert (whole / "model.safetensors").stat().st_mtime_ns == before


def test_the_vision_tower_stays_and_the_projector_learns(base, whole):
    old, new = load_file(base / "model" / "model.safetensors"), weights(whole)
    changed = {name.split(".")[0] if "model." not in name else name.split("model.")[-1].split(".")[0] for name in old}
    assert changed
    for name in old:
        assert torch.equal(old[name], new[name]) == ("vision_tower" in name), name


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_an_interrupted_run_resumes_to_the_same_model(base, whole, number, tmp_path):
    output = tmp_path / "model"
    process = start(base, output)
    until((output / "checkpoint-2").exists, process)
    os.kill(process.pid, number)
    finish(process, -9 if number == signal.SIGKILL else 143)
    assert not (output / "model.safetensors").exists()
    out, _ = finish(start(base, output))
    assert "resuming from" in out
    expected, found = weights(whole), weights(output)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert lines(output) == lines(whole)


def only_text_on_one_rank(base: Path, folder: Path) -> Path:
    """Data of which one micro-batch of the first step has images, all others have none."""
    records = json.loads((base / "data" / "train.json").read_text())
    with_image = [record for record in records if "image" in record][:1]
    without = [record for record in records if "image" not in record][:7]
    file = folder / "few.json"
    file.write_text(json.dumps(with_image + without))
    return file


def test_two_ranks_and_zero3_train_as_one_process_with_a_rank_of_text(base, tmp_path):
    data = only_text_on_one_rank(base, tmp_path)
    settings = {"DATA_PATH": str(data), "FREEZE_VISION_TOWER": "False", "GRADIENT_CHECKPOINTING": "False"}
    settings |= {"SAVE_STRATEGY": "no", "LEARNING_RATE": "1e-3", "WARMUP_RATIO": "0"}
    settings |= {"GRADIENT_ACCUMULATION_STEPS": "1"}
    sgd = ("--optim", "sgd")
    finish(start(base, tmp_path / "one", *sgd, **(settings | {"PER_DEVICE_TRAIN_BATCH_SIZE": "4"})))
    zero = json.loads((ROOT / "scripts_visatb" / "zero3.json").read_text())
    zero |= {"zero_allow_untested_optimizer": True}
    zero["zero_optimization"] |= {"stage3_param_persistence_threshold": 0, "overlap_comm": False}
    (tmp_path / "zero3.json").write_text(json.dumps(zero))
    finish(start(base, tmp_path / "two", *sgd, NUM_PROCESSES="2", **settings))
    zero3 = given(base, tmp_path / "zero", *sgd, f"--deepspeed={tmp_path / 'zero3.json'}", **settings)
    codes, err = run_ranks(zero3[0], 2, zero3[1], ROOT)
    assert codes == [0, 0], err[-3000:]
    expected = weights(tmp_path / "one")
    for other in ("two", "zero"):
        found = weights(tmp_path / other)
        assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected), other


def argv(base: Path, output: Path, *more: str) -> list[str]:
    words = ["--model_name_or_path", str(base / "model"), "--data_path", str(base / "data" / "train.json")]
    words += ["--image_folder", str(base / "data" / "images"), "--output_dir", str(output), "--use_cpu", "True"]
    return [*words, *more]


def bad_model(base: Path, folder: Path, **changes: object) -> Path:
    """The model with other entries in its config.json."""
    folder.mkdir()
    for file in (base / "model").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--bits", "4", "--lora_enable", "True"], "--bits 4 .QLoRA. needs an NVIDIA GPU"),
        (["--task_sampling", "weights"], "task_sampling weights draws tasks by --visatb_weights"),
        (["--task_sampling", "cubic"], "task_sampling must be proportional, sqrt"),
        (["--bits", "4"], "a model in 4 bits cannot be trained itself"),
        (["--learning_rat", "1"], "unknown arguments: --learning_rat"),
        (["--visatb_weights", "1 2"], "visatb_weights.*--benchmark .BENCHMARK. all records are one task"),
        (["--visatb_weights", "1 x"], "must be numbers"),
        (["--do_eval", "True"], "--do_eval is not supported"),
        (["--model_max_length", "8"], "model_max_length must be at least .* for one image"),
        (["--min_pixels", "9", "--max_pixels", "4"], "min_pixels must be at most max_pixels"),
        (["--image_folder", "/nowhere"], "no such folder"),
        (["--model_name_or_path", "/nowhere/model"], "processor cannot be loaded"),
        (["--chat_template", "/nowhere.jinja"], "No such file"),
    ],
)
def test_a_run_that_cannot_be_is_refused_in_one_line(base, more, message, tmp_path):
    with pytest.raises((InputError, FileNotFoundError), match=message):
        train(argv(base, tmp_path / "model", *more))
    assert not (tmp_path / "model").exists()


def test_a_llava_folder_of_the_fork_is_refused_by_environment(base, tmp_path):
    folder = bad_model(base, tmp_path / "fork", model_type="llava_llama", mm_vision_tower="clip")
    with pytest.raises(InputError, match="needs the environment of requirements.txt"):
        train(argv(base, tmp_path / "model", "--model_name_or_path", str(folder)))


def test_image_tokens_that_do_not_match_the_model_are_refused_in_one_line(base, tmp_path):
    folder = bad_model(base, tmp_path / "other")
    settings = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps(settings | {"patch_size": 14}))
    with pytest.raises(InputError, match="processor and model differ in image tokens"):
        train(argv(base, tmp_path / "model", "--model_name_or_path", str(folder)))


def test_a_folder_of_another_run_is_refused(base, whole):
    with pytest.raises(InputError, match="belongs to a run with other settings"):
        train(argv(base, whole))


def test_lora_saves_an_adapter_that_loads_and_can_be_asked(base, tmp_path):
    output = tmp_path / "lora"
    more = ["--lora_enable", "True", "--lora_r", "2", "--learning_rate", "1e-2", "--max_steps", "2"]
    more += ["--report_to", "none", "--max_pixels", "400"]
    assert train(argv(base, output, *more)) == 0
    assert {"adapter_model.safetensors", "adapter_config.json", "config.json"} <= set(os.listdir(output))
    names = load_file(output / "adapter_model.safetensors")
    assert names and all("language_model" in name for name in names)
    assert json.loads((output / "config.json").read_text())["visatb_pixel_budget"] == [None, 400]
    flags = ["--engine", "hf", "--model-path", output, "--question-file", base / "data" / "train.json"]
    flags += ["--image-folder", base / "data" / "images", "--answers-folder", tmp_path / "a", "--max_new_tokens", "4"]
    assert inference_visatb.main([str(flag) for flag in flags]) == 0
    answers = json.loads((tmp_path / "a" / "train_lora.json").read_text())
    assert len(answers) == 24 and all("generative_value" in answer["conversations"][1] for answer in answers)


def test_tasks_are_drawn_as_task_sampling_says(base, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(training, "run_to_the_end", lambda trainer, _: found.append(trainer) or 1)
    tasks = ["--benchmark", str(base / "data" / "tiny.yaml"), "--visatb_weights", "0.5 2"]
    for n, sampling in enumerate(("proportional", "weights")):
        assert train(argv(base, tmp_path / str(n), *tasks, "--task_sampling", sampling)) == 1
    plain, drawn = found
    task_N = plain.train_dataset.task_of_records()
    assert sorted(plain._order_of_epoch(1)) == list(range(len(task_N)))
    counts = Counter(task_N[index] for index in drawn._order_of_epoch(1))
    few, many = 0.5 * task_N.count(0), 2 * task_N.count(1)
    assert counts.total() == len(task_N)
    assert abs(counts[1] - len(task_N) * many / (few + many)) < 1
    assert drawn._order_of_epoch(1) == drawn._order_of_epoch(1) != drawn._order_of_epoch(0)
    assert drawn.weighter.weight_K.tolist() == [1, 1] and plain.weighter.weight_K.tolist() == [0.5, 2]
