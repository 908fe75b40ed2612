"""Strategies in the Trainer: the lag of one step, splits, resuming, logs (tests/distributed has several processes)."""

import json
import math

import pytest
import torch
import transformers
from sentences import collate, make_trainer

from transformers_patch import Weighter, build_weighter
from visatb.errors import InputError

NAMES = ("EWTB", "RLW", "DWA", "IGB", "UW")


def small(name):
    return build_weighter(name, 3, **({"window": 2} if name in ("DWA", "IGB") else {}))


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def per_task(line, key):
    return [line["tasks"][name][key] for name in "abc"]


def assert_same_model(one, other, **tolerance):
    for (name, a), b in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def test_the_weights_of_a_step_come_from_the_steps_before_it(tmp_path):
    weighter = build_weighter("DWA", 3, window=1, temperature=0.5)
    make_trainer(tmp_path, weighter, per_device_train_batch_size=11, num_train_epochs=3).train()
    log, alone = lines(tmp_path), build_weighter("DWA", 3, window=1, temperature=0.5)
    assert len(log) == 6
    for line in log:
        assert per_task(line, "weight") == pytest.approx(alone.weight_K.tolist())
        losses = torch.tensor([loss if loss is not None else torch.nan for loss in per_task(line, "loss")])
        alone.observe(losses.double(), torch.tensor(per_task(line, "tokens")))
    assert per_task(log[-1], "weight") != [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", NAMES)
def test_accumulation_equals_one_batch_for_every_strategy(tmp_path, name):
    runs = []
    for folder, (per_device, accumulation) in {"one": (8, 1), "split": (1, 8)}.items():
        run = make_trainer(
            tmp_path / folder,
            small(name),
            per_device_train_batch_size=per_device,
            gradient_accumulation_steps=accumulation,
        )
        run.train()
        runs.append(run)
    for one, split in zip(lines(tmp_path / "one"), lines(tmp_path / "split"), strict=True):
        assert split["loss"] == pytest.approx(one["loss"], abs=1e-6)
        assert per_task(split, "weight") == pytest.approx(per_task(one, "weight"), abs=1e-6)
    assert per_task(one, "weight") != [1.0, 1.0, 1.0] or name == "EWTB"
    assert_same_model(*runs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["RLW", "DWA", "UW"])
def test_a_resumed_run_has_the_weights_of_the_uninterrupted_one(tmp_path, name):
    class StopAt(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 4

    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    saving = settings | {"save_strategy": "steps", "save_steps": 3}
    whole = make_trainer(tmp_path / "whole", small(name), **settings)
    whole.train()
    make_trainer(tmp_path / "cut", small(name), callbacks=[StopAt()], **saving).train()
    resumed = make_trainer(tmp_path / "cut", small(name), **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    assert_same_model(whole, resumed, atol=0, rtol=0)
    for key in ("weight", "loss"):
        assert [per_task(line, key) for line in lines(tmp_path / "cut")] == [
            per_task(line, key) for line in lines(tmp_path / "whole")
        ]


def test_batch_normalization_observes_each_micro_batch_before_its_loss(tmp_path):
    weighter, alone = small("IGB"), small("IGB")
    run = make_trainer(
        tmp_path,
        weighter,
        normalization="batch",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=0.0,
        max_steps=4,
    )
    order, quotients = run.epoch_order(0), []
    for start in range(0, 16, 2):
        batch = collate([run.train_dataset[i] for i in order[start : start + 2]])
        quotients.append(run.model(**batch, weighter=alone).loss.item())
    run.train()
    assert int(weighter.steps) == 8
    assert [line["loss"] for line in lines(tmp_path)] == pytest.approx(
        [sum(quotients[n : n + 2]) / 2 for n in range(0, 8, 2)], abs=1e-6
    )
    torch.testing.assert_close(weighter.weight_K, alone.weight_K)


def test_shares_in_the_log_are_the_tasks_parts_of_the_loss(tmp_path):
    weighter = build_weighter("EWTB", 3, [0.6, 1.7, 1.1])
    make_trainer(tmp_path, weighter, per_device_train_batch_size=22, max_steps=1).train()
    (line,) = lines(tmp_path)  # task c has no sample
    a, b, _ = per_task(line, "loss")
    assert line["loss"] == pytest.approx((0.6 * a + 1.7 * b) / 2.3, rel=1e-6)
    assert per_task(line, "share") == pytest.approx([0.6 * a / 2.3 / line["loss"], 1.7 * b / 2.3 / line["loss"], 0.0])


def test_weights_3_and_a_half_update_6_to_1_with_micro_batches_of_1(tmp_path):
    class Two(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, n):
            ids = torch.arange(5, 13)
            return {"input_ids": ids, "labels": ids + 10 * n, "task_ids": n}

    gradients = {}

    class Keep(transformers.TrainerCallback):
        def __init__(self, name):
            self.name = name

        def on_step_end(self, args, state, control, model=None, **kwargs):
            gradients[self.name] = model.lm_head.weight.grad.clone()

    for name, weights in {"both": [3.0, 0.5], "first": [1.0, 1e-9], "second": [1e-9, 1.0]}.items():
        run = make_trainer(
            tmp_path / name,
            build_weighter("EW", 3, [*weights, 1.0]),
            Two(),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=2,
            max_steps=1,
            max_grad_norm=0,
            callbacks=[Keep(name)],
        )
        run.model.zero_grad = lambda *a, **k: None  # the Trainer would clear what is looked at
        run.train()
    # The gradient of both is a mixture of the gradients of each: 6 parts of the first, 1 of the second.
    torch.testing.assert_close(gradients["both"], (6 * gradients["first"] + gradients["second"]) / 7)


@pytest.mark.parametrize("normalization", ["step", "batch"])
def test_a_loss_spoiled_by_a_weight_names_the_strategy_not_the_samples(tmp_path, normalization):
    class Unbounded(Weighter):
        def observe(self, mean_K, count_K):
            self.weight_K[0] = math.inf

    run = make_trainer(tmp_path, Unbounded(3), normalization=normalization)
    with pytest.raises(
        InputError, match=r"step [12]: the task weights of Unbounded .* got \[inf, 1.0, 1.0\] and (inf|nan)"
    ):
        run.train()


def test_a_strategy_with_parameters_is_refused(tmp_path):
    class Learned(Weighter):
        def __init__(self, num_tasks):
            super().__init__(num_tasks)
            self.scale = torch.nn.Parameter(torch.ones(num_tasks))

    with pytest.raises(ValueError, match="Learned.scale must be a buffer"):
        make_trainer(tmp_path, Learned(3))
