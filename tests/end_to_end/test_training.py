"""Training through the real scripts and the real entry point, on tiny models."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from forked import Forked, given_by
from safetensors.torch import load_file
from tiny import TASKS, make_tiny_checkpoint, make_tiny_dataset
from waiting import PATIENCE, until

RECIPE = {
    "PER_DEVICE_TRAIN_BATCH_SIZE": "4",
    "LEARNING_RATE": "1e-3",
    "MODEL_MAX_LENGTH": "256",
    "DATALOADER_NUM_WORKERS": "0",
    "GRADIENT_CHECKPOINTING": "False",
    "SAVE_STRATEGY": "no",
    "REPORT_TO": "none",
    "NUM_GPUS": "0",
    "PYTHON": sys.executable,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with base models, 24 records, and a benchmark file of their tasks."""
    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("training"))
    make_tiny_dataset(folder, 24, "data.json")
    files = {n: {"train": "data.json", "val": f"{n}-val.json", "test": f"{n}-test.json"} for n in TASKS}
    tasks = [{"name": n, "metric": "exact_match", "files": files[n]} for n in TASKS if n != "Chat"]
    tasks.append({"name": "Chat", "weight": 1.0, "files": files["Chat"]})
    content = {"name": "tiny", "data_folder": str(folder), "image_folder": str(folder / "images"), "tasks": tasks}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    return folder


def environment(place: Path, output: Path, **changes: str) -> dict[str, str]:
    given = {
        "DATA_PATH": place / "data.json",
        "IMAGE_FOLDER": place / "images",
        "OUTPUT_DIR": output,
        "BASE_MODEL_PATH": place / "llama",
        "VISION_TOWER": place / "vision_tower",
        "PRETRAIN_MM_MLP_ADAPTER": place / "mm_projector.bin",
        "BENCHMARK": place / "tiny.yaml",
    }
    return os.environ | RECIPE | {key: str(value) for key, value in given.items()} | changes


def start(repository: Path, env: dict[str, str], *flags: str, script: str = "finetune_academic.sh") -> Forked:
    command = ["bash", str(repository / "scripts_visatb" / script), *flags]
    return Forked(*given_by(command, env, repository), repository)


def finetune(repository: Path, env: dict[str, str], *flags: str, script: str = "finetune_academic.sh"):
    process = start(repository, env, *flags, script=script)
    out, err = process.communicate()
    return process.returncode, out, err


def losses(output: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (output / "train_log.jsonl").read_text().splitlines()]


def assert_refused(result, message: str, output: Path) -> None:
    code, _, err = result
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ") and message in last and "Traceback" not in err, err
    assert not output.exists() or not list(output.glob("*.safetensors"))


def test_stage_1_writes_a_projector_that_stage_2_starts_from(repository, place, tmp_path):
    stage_1 = tmp_path / "stage1"
    captions = [r for r in json.loads((place / "data.json").read_text()) if r["task"] == "SceneCaption"]
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    env = environment(place, stage_1, DATA_PATH=str(tmp_path / "captions.json"))
    code, _, err = finetune(repository, env, "--max_steps", "2", script="pretrain.sh")
    assert code == 0, err
    assert {p.name for p in stage_1.iterdir()} >= {"mm_projector.bin", "config.json", "trainer_state.json"}
    assert not list(stage_1.glob("*.safetensors"))
    env = environment(place, tmp_path / "stage2", PRETRAIN_MM_MLP_ADAPTER=str(stage_1 / "mm_projector.bin"))
    assert finetune(repository, env, "--max_steps", "1", "--freeze_mm_mlp_adapter", "True")[0] == 0
    import torch

    kept = load_file(tmp_path / "stage2" / "model.safetensors")
    for name, value in torch.load(stage_1 / "mm_projector.bin", weights_only=True).items():
        assert torch.equal(kept[name], value)


def test_two_runs_are_identical_and_a_finished_run_does_nothing(repository, place, tmp_path):
    weights = "0.5 1.5 1.2 1.0"
    env = environment(place, tmp_path / "a", VISATB_WEIGHTS=weights)
    command = ["bash", str(repository / "scripts_visatb" / "finetune_academic.sh")]
    subprocess.run(command, env=env, check=True, timeout=PATIENCE)
    code, out, err = finetune(repository, environment(place, tmp_path / "b", VISATB_WEIGHTS=weights))
    assert code == 0 and "task ShapeVQA" in out and "weight 1.5000" in out, err
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert all(one[key].equal(other[key]) for key in one)
    before = (tmp_path / "a" / "model.safetensors").stat().st_mtime_ns
    code, out, _ = finetune(repository, environment(place, tmp_path / "a", VISATB_WEIGHTS=weights))
    assert code == 0 and "this run is finished" in out
    assert (tmp_path / "a" / "model.safetensors").stat().st_mtime_ns == before


def test_killed_training_resumes_to_the_model_of_an_uninterrupted_run(repository, place, tmp_path):
    saving = {"SAVE_STRATEGY": "steps", "SAVE_STEPS": "3", "NUM_TRAIN_EPOCHS": "6", "TASK_SAMPLING": "temperature:3"}
    code, out, _ = finetune(repository, environment(place, tmp_path / "whole", **saving))
    assert code == 0 and "drawn per epoch" in out
    output = tmp_path / "cut"
    process = start(repository, environment(place, output, **saving))
    until(lambda: list(output.glob("checkpoint-*")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (output / "model.safetensors").exists()
    code, _, err = finetune(repository, environment(place, output, **saving))
    assert code == 0, err
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(one[key].equal(other[key]) for key in one)
    assert losses(tmp_path / "whole") == losses(output)


def test_another_run_in_the_same_folder_is_refused_and_the_model_kept(repository, place, tmp_path):
    output = tmp_path / "model"
    assert finetune(repository, environment(place, output), "--max_steps", "1")[0] == 0
    before = (output / "model.safetensors").read_bytes()
    code, _, err = finetune(repository, environment(place, output, VISATB_WEIGHTS="1 1 1 2"), "--max_steps", "1")
    assert code == 2 and "visatb_weights" in err.splitlines()[-1]
    assert (output / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"VISATB_WEIGHTS": "1 1 1"}, "visatb_weights must have 4 values"),
        ({"VISATB_WEIGHTS": "1 1 1 0"}, "finite numbers > 0, got 0.0 at position 3"),
        ({"VISATB_WEIGHTS": "1 1 nan 1"}, "finite numbers > 0, got nan at position 2"),
        ({"WEIGHT_METHOD": "XYZ"}, "weight_method must be one of"),
        ({"DATA_PATH": "absent.json"}, "absent.json: no such file"),
        ({"BENCHMARK": "absent.yaml"}, "absent.yaml: no such file"),
        ({"IMAGE_FOLDER": "nowhere"}, "nowhere: no such folder"),
        ({"PROMPT_VERSION": "v9"}, "version must be one of"),
        ({"TASK_SAMPLING": "equal"}, "task_sampling must be proportional, sqrt, temperature:T"),
        ({"TASK_SAMPLING": "weights"}, "Set both"),
        ({"LOSS_NORMALIZATION": "token"}, "loss_normalization must be step or batch"),
        ({"LOSS_NORMALIZATION": "batch", "PER_DEVICE_TRAIN_BATCH_SIZE": "1"}, "weights cancel out"),
        ({"MODEL_MAX_LENGTH": "20"}, "keep no supervised token"),
        ({"BASE_MODEL_PATH": "no/such/model"}, "no/such/model"),
        ({"BASE_MODEL_PATH": str(Path(__file__).parent)}, "config.json"),
        ({"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}, "Unset it"),
        ({"PRETRAIN_MM_MLP_ADAPTER": "absent.bin"}, "absent.bin"),
    ],
)
def test_bad_settings_are_refused_in_one_line_and_leave_no_model(repository, place, tmp_path, changes, message):
    output = tmp_path / "model"
    assert_refused(finetune(repository, environment(place, output, **changes)), message, output)
    assert not output.exists()


def test_bad_records_are_refused_before_the_model_loads(repository, place, tmp_path):
    records = json.loads((place / "data.json").read_text())
    records[7]["task"] = "Poetry"
    (tmp_path / "bad.json").write_text(json.dumps(records))
    output = tmp_path / "model"
    env = environment(place, output, DATA_PATH=str(tmp_path / "bad.json"), BASE_MODEL_PATH="no/such/model")
    assert_refused(finetune(repository, env), "record 7 (id 'tiny-7'): task must be one of", output)
    assert not output.exists()


def test_an_unreadable_image_stops_training_or_is_skipped_and_counted(repository, place, tmp_path):
    import shutil

    images = tmp_path / "images"
    shutil.copytree(place / "images", images)
    (images / "004.png").write_bytes(b"\x89PNG nothing more")
    output = tmp_path / "model"
    env = environment(place, output, IMAGE_FOLDER=str(images))
    assert_refused(finetune(repository, env), "004.png", output)
    env = environment(place, tmp_path / "skipped", IMAGE_FOLDER=str(images))
    code, _, err = finetune(repository, env, "--bad_image", "skip")
    assert code == 0, err
    assert json.loads((tmp_path / "skipped" / "visatb_run.json").read_text())["bad_images"] == 1


def test_help_of_the_entry_point_names_the_flags(repository):
    out = subprocess.run(
        [sys.executable, "-m", "llava.train.train", "--help"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "--visatb_weights" in out and "--loss_normalization" in out
