"""Saving, resuming and stopping of the Trainer."""

import json
import os
import pickle
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from sentences import Sentences, make_trainer
from torch.utils.data import DataLoader

from transformers_patch import EqualWeighting, checkpoints, stopping
from transformers_patch.checkpoints import SaveError, random_state, saved_kinds, set_random_state
from transformers_patch.publish import DamagedError, seal, verify
from transformers_patch.step_loader import ReadError
from transformers_patch.stopping import StopSignals, start_worker
from transformers_patch.tensor_files import load_tensors, weights_only_loading


def trainer(folder, **arguments):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "save_safetensors": True}
    return make_trainer(folder, EqualWeighting(3), **settings | {"per_device_train_batch_size": 8} | arguments)


class AtStep(transformers.TrainerCallback):
    """Does something at the end of a step."""

    def __init__(self, step, work):
        self.step, self.work = step, work

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.work()


def saved(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def draws():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()


def test_random_state_comes_back_through_a_file_of_tensors_and_numbers(tmp_path):
    random.gauss(0, 1), np.random.randn()  # leaves the second number of a pair in each generator
    torch.save(random_state(), tmp_path / "state.pt")
    drawn = draws()
    set_random_state(load_tensors(tmp_path / "state.pt"))
    assert draws() == drawn


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("variable", ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD", None])
def test_no_environment_and_no_caller_makes_loading_run_code(tmp_path, monkeypatch, variable):
    monkeypatch.chdir(tmp_path)
    torch.save(Hostile(), "x.pt")
    if variable:
        monkeypatch.setenv(variable, "1")
    before = dict(os.environ)
    with weights_only_loading():
        for options in ({}, {"weights_only": False}):  # DeepSpeed asks for the second
            with pytest.raises(pickle.UnpicklingError):
                torch.load("x.pt", **options)
    with pytest.raises(pickle.UnpicklingError):
        load_tensors("x.pt")
    assert dict(os.environ) == before and not Path("ran").exists()


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "weighter.pt", "random_state_0.pt"])
def test_a_pickle_with_code_is_not_run_even_if_in_the_manifest(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    trainer(tmp_path, max_steps=2).train()
    checkpoint = tmp_path / "checkpoint-2"
    torch.save(Hostile(), checkpoint / file)
    (checkpoint / "manifest.json").unlink()
    seal(checkpoint, step=2, world_size=1, deepspeed=False, run="")
    verify(checkpoint, run="")
    with pytest.raises(pickle.UnpicklingError):
        trainer(tmp_path).train(resume_from_checkpoint=str(checkpoint))
    assert not Path("ran").exists()


def test_weights_saved_as_torch_files_are_loaded_without_running_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    trainer(tmp_path, save_safetensors=False, max_steps=2).train()
    torch.save(Hostile(), tmp_path / "checkpoint-2" / "pytorch_model.bin")
    with pytest.raises(pickle.UnpicklingError):
        trainer(tmp_path, save_safetensors=False).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert not Path("ran").exists()


def test_a_run_that_was_cut_after_its_last_step_takes_no_other(tmp_path):
    run = trainer(tmp_path, max_steps=4)  # in the middle of an epoch
    run.train()
    again = trainer(tmp_path, max_steps=4)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert again.state.global_step == 4
    for one, other in zip(run.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_that_a_run_went_on_from_is_not_written_again(tmp_path, monkeypatch):
    settings = {"save_strategy": "epoch", "max_steps": 4}  # in the middle of the second epoch
    trainer(tmp_path, **settings).train()
    run, seals = trainer(tmp_path, **settings), []
    monkeypatch.setattr(checkpoints, "publish", lambda staged, final: seals.append(final.name))
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))  # the epoch ends once more, without a step
    assert seals == [] and run.state.global_step == 4


def test_a_trainer_that_was_stopped_can_train_again(tmp_path):
    run = trainer(tmp_path, save_strategy="no", callbacks=[AtStep(1, lambda: os.kill(os.getpid(), signal.SIGTERM))])
    with StopSignals() as run.stop:
        run.train()
    assert saved(tmp_path) == ["checkpoint-2"]
    run.stop = None
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert not run.stopped_by and run.state.global_step == 6 and saved(tmp_path) == ["checkpoint-2"]


def test_old_checkpoints_go_when_the_new_one_is_there(tmp_path):
    trainer(tmp_path, save_total_limit=2, save_steps=1).train()
    assert saved(tmp_path) == ["checkpoint-5", "checkpoint-6"]
    assert not list((tmp_path / ".saving").iterdir())


@pytest.mark.parametrize("spoil", ["lost", "empty", "another shape", "another dtype"])
def test_an_incomplete_checkpoint_is_not_published(tmp_path, monkeypatch, spoil):
    run = trainer(tmp_path, save_total_limit=1)
    save = run._save

    def incomplete(folder, state_dict=None):
        state = dict(run.model.state_dict())
        name = next(iter(state))
        if run.state.global_step == 4:
            whole = state.pop(name)
            spoiled = {
                "empty": torch.empty(0),
                "another shape": whole[:1].clone(),
                "another dtype": whole.half(),
            }
            state |= {name: spoiled[spoil]} if spoil in spoiled else {}
        save(folder, state)

    monkeypatch.setattr(run, "_save", incomplete)
    with pytest.raises(
        SaveError, match=r"checkpoint-4 could not be written: .*missing, empty or of another shape or dtype"
    ):
        run.train()
    assert saved(tmp_path) == ["checkpoint-2"] and not (tmp_path / ".saving").exists()
    verify(tmp_path / "checkpoint-2", run="")


def test_a_checkpoint_of_trained_parameters_alone_is_complete(tmp_path, monkeypatch):
    run = trainer(tmp_path, max_steps=2)
    run.model.model.requires_grad_(False)

    def save(folder, state_dict=None):
        os.makedirs(folder)
        state = {f"base_model.model.{name}": p.detach() for name, p in run.model.named_parameters() if p.requires_grad}
        torch.save(state, Path(folder) / "mm_projector.bin")

    monkeypatch.setattr(run, "_save", save)
    run.train()
    assert list(saved_kinds(tmp_path / "checkpoint-2")) == ["lm_head.weight"]


def test_a_write_that_fails_names_the_systems_reason_and_leaves_nothing(tmp_path, monkeypatch):
    def full(content, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_tensors", full)
    with pytest.raises(SaveError, match=r"checkpoint-2 could not be written: No space left on device\. Existing"):
        trainer(tmp_path).train()
    assert saved(tmp_path) == [] and not (tmp_path / ".saving").exists()


def test_a_manifest_of_another_run_is_reported(tmp_path):
    trainer(tmp_path, max_steps=2).train()
    with pytest.raises(DamagedError, match="run with other settings"):
        verify(tmp_path / "checkpoint-2", run="another")


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_after_the_step_with_any_save_strategy(tmp_path, number):
    run = trainer(tmp_path, save_strategy="no", callbacks=[AtStep(2, lambda: os.kill(os.getpid(), number))])
    with StopSignals() as run.stop:
        run.train()
    assert run.stopped_by == number and run.state.global_step == 3 and saved(tmp_path) == ["checkpoint-3"]
    again = trainer(tmp_path, save_strategy="no")
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    whole = trainer(tmp_path / "whole", save_strategy="no")
    whole.train()
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


class Damaged(Sentences):
    damaged: int | None = None

    def __getitem__(self, n):
        if n == self.damaged:
            raise OSError("cannot be read")
        return super().__getitem__(n)


@pytest.mark.parametrize("normalization", ["step", "batch"])
@pytest.mark.parametrize("step", [0, 1, 4])  # the third step is the last one of an epoch
def test_a_sample_that_cannot_be_read_saves_the_steps_before_it(tmp_path, step, normalization):
    def make(folder):
        data, rest = Damaged(), {"save_strategy": "no", "per_device_train_batch_size": 8, "logging_steps": 100}
        return data, make_trainer(tmp_path / folder, EqualWeighting(3), data, normalization, **rest)

    data, run = make("whole")
    run.train()
    cut, stopped = make("cut")
    epoch, place = divmod(step, 3)
    cut.damaged = stopped.epoch_order(epoch)[8 * place]
    if epoch:  # read in the first epoch too
        stopped.add_callback(AtStep(3, lambda: setattr(cut, "damaged", stopped.epoch_order(1)[8 * place])))
        cut.damaged = None
    with pytest.raises(ReadError):
        stopped.train()
    folder = tmp_path / "cut"
    assert saved(folder) == ([f"checkpoint-{step}"] if step else [])
    lines = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()] if step else []
    assert lines == [step] * bool(step)
    _, resumed = make("cut")
    resumed.train(resume_from_checkpoint=str(folder / f"checkpoint-{step}") if step else None)
    for name, value in run.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_signal_in_the_last_step_lets_the_run_end(tmp_path):
    stop = AtStep(5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    run = trainer(tmp_path, save_strategy="no", callbacks=[stop])
    with StopSignals() as run.stop:
        run.train()
    assert not run.stopped_by and run.state.global_step == 6 and saved(tmp_path) == []


def test_the_step_that_saves_anyway_is_saved_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(checkpoints, "publish", lambda staged, final: calls.append(final.name) or staged.rename(final))
    run = trainer(tmp_path, save_strategy="epoch", max_steps=-1, num_train_epochs=1)
    run.args.save_minutes = 1e-9
    run.train()
    assert calls == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


def ended_by(work):
    """How a forked process ended that did this."""
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_second_signal_ends_the_process_unless_it_came_with_the_first(monkeypatch):
    def twice():
        with StopSignals():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

    assert ended_by(twice) == 0
    monkeypatch.setattr(stopping, "SAME_WISH_S", 0.001)
    assert ended_by(twice) == -signal.SIGINT


def test_signals_do_what_they_did_before_once_the_run_is_over():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def pid_of_worker(_):
    return os.getpid()


def test_a_data_loader_worker_survives_signals_and_ends_with_its_parent():
    batches = iter(DataLoader([0, 1, 2], num_workers=1, worker_init_fn=start_worker, collate_fn=pid_of_worker))
    pid = next(batches)
    for name in ("TERM", "INT"):
        subprocess.run(["kill", f"-{name}", str(pid)], check=True)
    assert next(batches) == pid and next(batches) == pid
    os.kill(pid, signal.SIGTERM)  # by its parent
    with pytest.raises(RuntimeError, match="exited|killed"):
        for _ in range(100):
            time.sleep(0.1)
            torch.utils.data._utils.signal_handling._error_if_any_worker_fails()
            if not Path(f"/proc/{pid}/cmdline").read_bytes():
                raise RuntimeError("exited")


def test_the_clock_of_the_first_rank_decides_when_to_save(tmp_path, monkeypatch):
    run = trainer(tmp_path, save_strategy="no", max_steps=4)
    run.args.save_minutes = 1.0
    clock = iter(range(0, 10**6, 25))  # seconds
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: next(clock))
    run.train()
    assert 1 <= len(saved(tmp_path)) < 4
    other = trainer(tmp_path / "other", max_steps=1)
    monkeypatch.setattr(other, "is_world_process_zero", lambda: False)
    other.args.save_minutes, other._saved_at = 1.0, -1e9
    assert other.stop_requests().tolist() == [0, 0, 0]


def test_the_manifest_records_what_was_saved_by_which_run(tmp_path):
    run = trainer(tmp_path, max_steps=2)
    run.run_digest = "abc"
    run.train()
    manifest = json.loads((tmp_path / "checkpoint-2" / "manifest.json").read_text())
    files = {p.name for p in (tmp_path / "checkpoint-2").iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == files
    assert {key: manifest[key] for key in ("step", "world_size", "deepspeed", "run")} == {
        "step": 2,
        "world_size": 1,
        "deepspeed": False,
        "run": "abc",
    }
