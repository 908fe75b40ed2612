"""The Trainer: Eq. 2 over the step, resuming, refusals, logs."""

import json

import pytest
import torch
import transformers
from sentences import Sentences, collate, make_trainer, model
from transformers import TrainingArguments

from transformers_patch import EqualWeighting, Trainer
from transformers_patch.trainer import NonFiniteLossError


def trainer(folder, weights=(0.6, 1.7, 1.1), **arguments):
    return make_trainer(folder, EqualWeighting(3, weights), **arguments)


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_model(one, other, **tolerance):
    for (name, a), b in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("per_device, accumulation", [(4, 2), (2, 4), (1, 8)])
def test_accumulation_equals_one_batch_of_the_same_samples(tmp_path, per_device, accumulation):
    runs = []
    for name, split in {"one": (8, 1), "split": (per_device, accumulation)}.items():
        run = trainer(tmp_path / name, per_device_train_batch_size=split[0], gradient_accumulation_steps=split[1])
        run.train()
        runs.append(run)
    assert runs[0].state.global_step == runs[1].state.global_step == 6  # 22 samples: steps of 8, 8 and 6, twice
    for one, split in zip(lines(tmp_path / "one"), lines(tmp_path / "split"), strict=True):
        assert split["loss"] == pytest.approx(one["loss"], abs=1e-6)
        assert split["tasks"]["b"]["tokens"] == one["tasks"]["b"]["tokens"]
    assert_same_model(*runs, atol=1e-5, rtol=1e-4)


def test_batch_normalization_averages_the_quotients_of_micro_batches(tmp_path):
    run = trainer(
        tmp_path, normalization="batch", per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=1
    )
    order = run.epoch_order(0)
    quotients = []
    for start in (0, 2):
        batch = collate([run.train_dataset[i] for i in order[start : start + 2]])
        quotients.append(run.model(**batch, weighter=run.weighter).loss.item())
    run.train()
    assert lines(tmp_path)[0]["loss"] == pytest.approx(sum(quotients) / 2, abs=1e-6)


def test_batch_normalization_refuses_micro_batches_of_one(tmp_path):
    with pytest.raises(ValueError, match="weights cancel out of a micro-batch"):
        trainer(tmp_path, normalization="batch", per_device_train_batch_size=1)


def test_batch_normalization_warns_below_eight(tmp_path):
    with pytest.warns(UserWarning, match="weakens the task weights"):
        trainer(tmp_path, normalization="batch", per_device_train_batch_size=4)


def test_resumed_run_equals_the_uninterrupted_one(tmp_path):
    class StopAt(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 4

    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    saving = settings | {"save_strategy": "steps", "save_steps": 2}
    whole = trainer(tmp_path / "whole", **settings)
    whole.train()
    trainer(tmp_path / "cut", callbacks=[StopAt()], **saving).train()
    resumed = trainer(tmp_path / "cut", **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
    assert_same_model(whole, resumed, atol=0, rtol=0)
    drop_time = [{k: v for k, v in line.items() if k != "elapsed_s"} for line in lines(tmp_path / "cut")]
    assert drop_time == [{k: v for k, v in line.items() if k != "elapsed_s"} for line in lines(tmp_path / "whole")]


def test_tokens_seen_between_two_logging_steps_survive_a_kill(tmp_path):
    class KillAt(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise KeyboardInterrupt

    settings = {"per_device_train_batch_size": 4, "logging_steps": 2, "max_steps": 6}
    saving = settings | {"save_strategy": "steps", "save_steps": 3}
    trainer(tmp_path / "whole", **settings).train()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "cut", callbacks=[KillAt()], **saving).train()
    trainer(tmp_path / "cut", **saving).train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    seen = [{n: task["tokens_seen"] for n, task in lines(tmp_path / f)[-1]["tasks"].items()} for f in ("whole", "cut")]
    assert seen[0] == seen[1] and seen[0]["b"] > 0
    assert [line["step"] for line in lines(tmp_path / "cut")] == [2, 3, 4, 6]


def test_checkpoints_appear_whole_and_old_ones_go(tmp_path):
    run = trainer(tmp_path, per_device_train_batch_size=8, save_strategy="steps", save_steps=2, save_total_limit=2)
    run.train()
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    assert not list((tmp_path / ".saving").iterdir())


def test_a_nan_loss_stops_before_the_step_and_names_task_and_samples(tmp_path):
    class Poisoned(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 1:
                model.lm_head.weight.data[7] = float("nan")

    run = trainer(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2, callbacks=[Poisoned()])
    with pytest.raises(NonFiniteLossError, match=r"nan at step 2 \(tasks: .*\); samples of rank 0: \d+"):
        run.train()
    assert run.state.global_step == 1


def test_a_gradient_that_is_not_finite_stops_before_the_optimizer_step(tmp_path):
    run = trainer(tmp_path, per_device_train_batch_size=4, max_steps=2)
    run.model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match=r"gradient norm is (nan|inf) at step 1 .*samples of rank 0: \d+"):
        run.train()
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def with_scaler(folder, overflows, **arguments):
    """A trainer with fp16's loss scaler, which trains on GPUs alone, and gradients that overflow in some steps."""
    run = trainer(folder, per_device_train_batch_size=4, **arguments)
    run.accelerator.scaler = torch.amp.GradScaler("cpu")
    spoiled = iter(overflows)
    run.model.lm_head.weight.register_hook(lambda gradient: gradient * (float("inf") if next(spoiled, 0) else 1))
    return run


def test_fp16_overflow_at_every_scale_ends_the_run_unsaved(tmp_path):
    run = with_scaler(tmp_path, [1] * 30, max_steps=30, save_strategy="steps", save_steps=17)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match=r"loss scale of fp16 is 0\.5 at step 17 .*samples of rank 0: \d+"):
        run.train()
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert not list(tmp_path.glob("checkpoint-*"))


def test_gradients_of_fp16_that_overflow_at_first_do_not_end_the_run(tmp_path):
    run = with_scaler(tmp_path, [1] * 16, max_steps=20)
    run.train()
    assert run.state.global_step == 20 and run.accelerator.scaler.get_scale() == 1


def test_a_restarted_run_removes_earlier_log_lines(tmp_path):
    for _ in range(2):
        trainer(tmp_path, per_device_train_batch_size=8, max_steps=2).train()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_time_in_the_log_continues_after_a_resume(tmp_path):
    trainer(tmp_path, per_device_train_batch_size=8, max_steps=2, save_strategy="steps", save_steps=1).train()
    first = lines(tmp_path)[0] | {"elapsed_s": 1000.0}
    (tmp_path / "log.jsonl").write_text(json.dumps(first) + "\n")
    trainer(tmp_path, per_device_train_batch_size=8, max_steps=2).train(str(tmp_path / "checkpoint-1"))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2] and lines(tmp_path)[1]["elapsed_s"] >= 1000


def test_the_best_checkpoint_survives_rotation(tmp_path):
    run = trainer(
        tmp_path,
        per_device_train_batch_size=8,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        evaluation_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        greater_is_better=True,  # the first, so that later saves find the best one already renamed into place
        label_names=["labels"],
        prediction_loss_only=True,
    )
    run.eval_dataset = Sentences(6)
    run.train()
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")
    assert (tmp_path / "checkpoint-1").is_dir()


def test_a_sampler_without_epochs_has_one_order_per_epoch_on_all_ranks(tmp_path):
    run = trainer(tmp_path, group_by_length=True, per_device_train_batch_size=4)
    order = run.epoch_order(0)
    torch.rand(1)  # another rank's random state
    assert run.epoch_order(0) == order and sorted(order) == list(range(22))
    assert run.epoch_order(1) != order


def test_the_log_has_loss_weight_tokens_and_share_of_each_task(tmp_path):
    run = trainer(tmp_path, per_device_train_batch_size=22, max_steps=1)
    run.train()
    (line,) = lines(tmp_path)
    tasks = line["tasks"]
    assert [tasks[name]["weight"] for name in "abc"] == pytest.approx([0.6, 1.7, 1.1])
    weighted = {name: task["weight"] * task["tokens"] * (task["loss"] or 0) for name, task in tasks.items()}
    assert tasks["c"] == {"loss": None, "weight": pytest.approx(1.1), "tokens": 0, "tokens_seen": 0, "share": 0.0}
    assert line["loss"] == pytest.approx(
        sum(weighted.values()) / sum(task["weight"] * task["tokens"] for task in tasks.values()), rel=1e-6
    )
    assert sum(task["share"] for task in tasks.values()) == pytest.approx(1)


def test_steps_after_the_last_logging_step_are_in_the_log(tmp_path):
    trainer(tmp_path, per_device_train_batch_size=4, max_steps=5, logging_steps=3).train()
    assert [line["step"] for line in lines(tmp_path)] == [3, 5]


def test_gradient_checkpointing_trains_without_useless_warnings(tmp_path, recwarn):
    trainer(tmp_path, per_device_train_batch_size=4, max_steps=1, gradient_checkpointing=True).train()
    assert not [warning for warning in recwarn if "use_reentrant" in str(warning.message)]


def test_several_gpus_in_one_process_are_refused(tmp_path):
    run = trainer(tmp_path)
    run.args._n_gpu = 2
    with pytest.raises(ValueError, match="torchrun --nproc_per_node 2"):
        run._check_settings()


def test_norm_weights_and_biases_are_not_decayed_and_no_group_is_empty(tmp_path):
    run = trainer(tmp_path, weight_decay=0.1)
    decayed, spared = run.optimizer_groups()
    assert len(spared["params"]) == 3 and spared["weight_decay"] == 0 and decayed["weight_decay"] == 0.1
    run.decay_norm_weights = True
    assert len(run.optimizer_groups()) == 1


def test_without_weighter_training_is_transformers_own(tmp_path):
    results = []
    for trainer_class in (transformers.Trainer, Trainer):
        arguments = TrainingArguments(
            str(tmp_path), report_to="none", disable_tqdm=True, max_steps=3, save_strategy="no", no_cuda=True
        )
        torch.manual_seed(0)
        run = trainer_class(
            model(), arguments, lambda s: {k: v for k, v in collate(s).items() if k != "task_ids"}, Sentences()
        )
        run.train()
        results.append(run)
    assert_same_model(*results, atol=0, rtol=0)
