"""What a training shows: the bar, the values handed to trackers, tokens counted over a resume."""

import json

import pytest
import torch
from sentences import make_trainer
from transformers import TrainerControl, TrainerState, TrainingArguments

from transformers_patch import EqualWeighting
from transformers_patch.progress import LossOnProgressBar, check_trackers
from transformers_patch.task_log import TaskLog, tracker_values
from transformers_patch.trainer import check_settings


def test_the_bar_shows_the_newest_loss_and_no_line_above_it(tmp_path, capsys):
    args = TrainingArguments(output_dir=str(tmp_path), no_cuda=True)
    state, control = TrainerState(), TrainerControl()
    state.max_steps, state.is_local_process_zero = 2, True
    bar = LossOnProgressBar()
    bar.on_train_begin(args, state, control)
    for state.global_step in (1, 2):
        logs = {"loss": 2.5 - state.global_step, "learning_rate": 1e-3, "task_loss/Vqa": 9.75}
        bar.on_log(args, state, control, logs=logs)
        bar.on_step_end(args, state, control)
    bar.on_log(args, state, control, logs={"train_runtime": 7.5})
    bar.on_train_end(args, state, control)
    reported = capsys.readouterr()
    assert "2/2" in reported.err and "loss 0.5000, lr 1.00e-03" in reported.err
    assert "9.75" not in reported.out + reported.err and "7.5" in reported.out + reported.err


def test_other_ranks_show_nothing(tmp_path, capsys):
    state = TrainerState()
    state.is_local_process_zero = False
    LossOnProgressBar().on_log(None, state, TrainerControl(), logs={"loss": 1.0, "learning_rate": 0.1})
    assert capsys.readouterr() == ("", "")


def test_a_tracker_that_is_not_installed_is_refused_with_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"report_to wandb needs a package. Run pip install wandb, or"):
        check_trackers(["wandb"])
    monkeypatch.setenv("WANDB_DISABLED", "1")
    with pytest.raises(ValueError, match="and unset WANDB_DISABLED"):
        check_trackers(["wandb"])
    with pytest.raises(ValueError, match="got 'no_such_tracker'"):
        check_trackers(["no_such_tracker"])
    check_trackers([])


def take_step(log: TaskLog, step: int) -> dict:
    loss_sum_K, count_K = torch.tensor([6.0, 0.0]), torch.tensor([3.0, 0.0])
    log.add(2.0, loss_sum_K, count_K, torch.tensor([2.0, 0.0]).double(), torch.tensor([0.5, 1.5]))
    return log.write(step, step / 10, 1e-3, float(step))


def test_tokens_seen_are_counted_over_lines_and_a_resume(tmp_path):
    path = tmp_path / "train_log.jsonl"
    log = TaskLog(["Vqa", "Box"], path)
    seen = [take_step(log, step)["tasks"]["Vqa"]["tokens_seen"] for step in (1, 2, 3)]
    assert seen == [3, 6, 9]
    resumed = TaskLog(["Vqa", "Box"], path)
    assert resumed.resume(2) == 2.0
    assert take_step(resumed, 3)["tasks"]["Vqa"] == {
        "loss": 2.0, "weight": 0.5, "tokens": 3, "tokens_seen": 9, "share": 1.0,
    }  # fmt: skip
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_trackers_get_loss_weight_share_and_tokens_of_every_task(tmp_path):
    values = tracker_values(take_step(TaskLog(["Vqa", "Box"], None), 1))
    assert values == {
        "task_loss/Vqa": 2.0, "task_weight/Vqa": 0.5, "task_share/Vqa": 1.0, "task_tokens/Vqa": 3,
        "task_weight/Box": 1.5, "task_share/Box": 0.0, "task_tokens/Box": 0,
    }  # fmt: skip
    assert tracker_values({}) == {}


def test_the_trainer_shows_the_bar_and_hands_trackers_every_value(tmp_path, capsys):
    trainer = make_trainer(tmp_path, EqualWeighting(3), disable_tqdm=False, max_steps=2)
    trainer.train()
    reported = capsys.readouterr()
    assert "2/2" in reported.err and "loss " in reported.err and "task_loss" not in reported.out + reported.err
    shown = {name.partition("/")[0] for name in trainer.state.log_history[0]}
    assert {"task_loss", "task_weight", "task_share", "task_tokens"} <= shown


def test_an_absent_tracker_is_refused_with_the_settings(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="Run pip install wandb"):
        check_settings(TrainingArguments(output_dir="unused", no_cuda=True, report_to="wandb"), "step")
