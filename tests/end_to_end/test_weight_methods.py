"""`--weight_method` and its constants through the training entry point."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from forked import run_forked
from tiny import TASKS

from llava.train.train import train
from visatb.errors import InputError

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "weighting_strategies.md"
MINE = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)[1]  # what users are shown


@pytest.fixture(scope="module")
def argv(tiny_checkpoint, tiny_dataset, tmp_path_factory):
    """The command line of a training of three steps, without method and output folder."""
    folder = tmp_path_factory.mktemp("weight_methods")
    tasks = [{"name": name, "weight": 1.0, "files": {"train": tiny_dataset.name}} for name in TASKS]
    content = {"name": "tiny", "data_folder": str(tiny_dataset.parent), "image_folder": ".", "tasks": tasks}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    return [
        "--model_name_or_path", str(tiny_checkpoint / "llama"), "--version", "v1",
        "--data_path", str(tiny_dataset), "--image_folder", str(tiny_dataset.parent / "images"),
        "--benchmark", str(folder / "tiny.yaml"), "--vision_tower", str(tiny_checkpoint / "vision_tower"),
        "--mm_projector_type", "mlp2x_gelu", "--mm_use_im_patch_token", "False", "--image_aspect_ratio", "pad",
        "--per_device_train_batch_size", "8", "--max_steps", "3", "--learning_rate", "1e-3", "--logging_steps", "1",
        "--save_strategy", "no", "--report_to", "none", "--no_cuda", "True",
    ]  # fmt: skip


def task_values(output, key):
    lines = [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]
    return [[line["tasks"][name][key] for name in TASKS] for line in lines]


@pytest.mark.parametrize("method", ["{place}/mine.py:NewestLoss", "mine:NewestLoss"])
def test_a_class_of_ten_lines_in_the_users_file_weights_the_training(argv, tmp_path, monkeypatch, method):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    chosen = ["--weight_method", method.format(place=tmp_path), "--weight-temperature", "2.0"]
    assert train([*argv, *chosen, "--output_dir", str(tmp_path / "model")]) == 0
    weights, losses = (task_values(tmp_path / "model", key) for key in ("weight", "loss"))
    assert weights[0] == [1.0] * 4
    for n in (1, 2):
        assert weights[n] == pytest.approx([(1.0 if loss is None else loss) / 2 for loss in losses[n - 1]], rel=1e-6)
    (tmp_path / "mine.py").write_text(MINE + "# another rule\n")
    with pytest.raises(InputError, match="the files of weight_method"):
        train([*argv, *chosen, "--output_dir", str(tmp_path / "model")])


def test_the_constants_of_a_strategy_are_flags(argv, tmp_path):
    flags = ["--weight_method", "DWA", "--weight_window", "1", "--weight_temperature", "0.01"]
    assert train([*argv, *flags, "--output_dir", str(tmp_path / "model")]) == 0
    first, second, third = task_values(tmp_path / "model", "weight")
    assert first == second == [1.0] * 4
    assert max(third) > 3 and sum(third) == pytest.approx(4, abs=1e-4)  # so cold that it is nearly one task's


@pytest.mark.parametrize(
    "flags, message",
    [
        (["DWA", "--visatb_weights", "1", "1", "1", "1"], "DynamicWeightAverage, which computes its own weights"),
        (["UW", "--weight_window", "5"], "weight_window must not be given to UW"),
        (["IGB", "--weight_window", "0"], "weight_window must be at least 1"),
        (["EW", "--weight_reference_history", "True"], "weight_reference_history must not be given to EW"),
        (["FAMO"], "weight_method must be one of EW, .*module:Class or file.py:Class"),
        (["no_such_module:Mine"], "no_such_module cannot be imported"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(argv, tmp_path, flags, message):
    output = tmp_path / "model"
    with pytest.raises(InputError, match=message):
        train([*argv, "--weight_method", *flags, "--output_dir", str(output)])
    assert not output.exists()


@pytest.fixture
def run_mine(argv, tmp_path, repository):
    """Train with NewestLoss of a file with this text, as a command; returns the finished process."""

    def run(text):
        (tmp_path / "mine.py").write_text(text)
        words = ["-m", "llava.train.train", *argv, "--weight_method", "mine:NewestLoss"]
        words += ["--output_dir", str(tmp_path / "model")]
        return run_forked(words, os.environ | {"PYTHONPATH": str(repository)}, tmp_path)

    return run


def test_a_users_class_that_fails_ends_the_command_with_one_line(run_mine):
    broken = MINE.replace("mean_K.nan_to_num", "mean_K.no_such_method")
    done = run_mine(broken)
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert line.startswith("error: weight_method: mine:NewestLoss does not work (AttributeError: ")
    where = next(number for number, code in enumerate(broken.splitlines(), 1) if "no_such_method" in code)
    assert f"mine.py line {where})" in line


def test_a_users_weight_that_overflows_in_training_ends_with_one_line(run_mine):
    done = run_mine(MINE.replace("/ self.temperature", "/ (count_K < 4)"))  # trial steps have one token of a task
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert line.startswith("error: step 2: the task weights of NewestLoss") and "inf" in line and "sample" not in line
