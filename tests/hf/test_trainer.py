"""What surrounds the loss: TRL, resuming, stopping, refusals, the log."""

import json
import signal

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, TrainerCallback, TrainingArguments
from trl import SFTConfig

from perf.closed_form import eq2, first_gradient, relative_error, weighted_gradient
from perf.split_invariance import blank_tokenizer
from tests.hf.tiny_models import build, collator, samples
from transformers_patch import Weighter, build_weighter
from transformers_patch.publish import verify
from transformers_patch.stopping import StopSignals
from visatb.errors import InputError
from visatb_hf import TaskCollator, WeightedSFTTrainer, WeightedTrainer
from visatb_hf.checkpoints import needed_files
from visatb_hf.trainer import NonFiniteLossError

WEIGHTS = [0.5, 1.0, 2.5]
FAMILY = "qwen2_5_vl"


def arguments(folder, **more) -> TrainingArguments:
    settings = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 6,
        "learning_rate": 0.01,
        "remove_unused_columns": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_steps": 1,
    }
    return TrainingArguments(str(folder), **settings | more)


def trainer(folder, weighter: Weighter, **more) -> WeightedTrainer:
    callbacks = more.pop("callbacks", None)
    data = more.pop("data", None) or samples(FAMILY, 10)
    return WeightedTrainer(
        build(FAMILY),
        arguments(folder, **more),
        train_dataset=data,
        data_collator=collator(FAMILY),
        weighter=weighter,
        task_names=["a", "b", "c"],
        log_file=folder / "log.jsonl",
        callbacks=callbacks,
    )


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def lines_of(folder) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "elapsed_s"} for line in lines]


@pytest.mark.parametrize("split", [(8, 1), (1, 8)], ids=str)
def test_sft_trainer_with_a_weighter_is_exact(split):
    model, data = build(FAMILY), samples(FAMILY, every_image=0)  # TRL's data sets hold plain values
    expected = weighted_gradient(model, collator(FAMILY)(data), eq2(WEIGHTS))
    rows = [
        {"input_ids": one["ids"].tolist(), "labels": one["labels"].tolist(), "task": "abc"[one["task"]]} for one in data
    ]

    def collate(batch):
        given = [
            {"ids": torch.tensor(r["input_ids"]), "labels": torch.tensor(r["labels"]), "task": 0, "images": 0}
            for r in batch
        ]
        return {name: value for name, value in collator(FAMILY)(given).items() if name != "task_ids"}

    found = first_gradient(
        WeightedSFTTrainer,
        model,
        Dataset.from_list(rows),
        TaskCollator(collate, tasks="abc"),
        *split,
        weighter=build_weighter("EW", 3, WEIGHTS),
        arguments=SFTConfig,
        settings={"dataset_kwargs": {"skip_prepare_dataset": True}, "gradient_checkpointing": False, "bf16": False},
        processing_class=blank_tokenizer(PreTrainedTokenizerFast),
    )
    assert relative_error(found, expected) < 1e-5


class _Interrupt(TrainerCallback):
    """Sends the process a SIGTERM in the middle of a step."""

    def __init__(self, step: int):
        self._step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self._step:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("method", ["EW", "RLW", "DWA"])
def test_a_run_stopped_by_sigterm_resumes_to_the_same_model(method, tmp_path):
    def weighter() -> Weighter:
        return build_weighter(
            method, 3, WEIGHTS if method == "EW" else None, **({"window": 1} if method == "DWA" else {})
        )

    whole = trainer(tmp_path / "whole", weighter())
    whole.train()
    stopped = trainer(tmp_path / "run", weighter(), callbacks=[_Interrupt(3)])
    with StopSignals() as stopped.stop:
        stopped.train()
    assert stopped.stopped_by == signal.SIGTERM
    assert stopped.state.global_step == 4
    checkpoint = tmp_path / "run" / "checkpoint-4"
    assert verify(checkpoint, "", needed=needed_files)["step"] == 4
    resumed = trainer(tmp_path / "run", weighter())
    resumed.train(resume_from_checkpoint=str(checkpoint))
    expected, found = weights_of(whole.model), weights_of(resumed.model)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "whole")


def test_save_total_limit_keeps_the_newest_checkpoints(tmp_path):
    run = trainer(tmp_path, build_weighter("EW", 3), save_strategy="steps", save_steps=2, save_total_limit=2)
    run.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    assert not list((tmp_path / ".saving").iterdir())


def test_a_full_disk_leaves_no_checkpoint(tmp_path, monkeypatch):
    from visatb_hf import checkpoints

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_tensors", full)
    run = trainer(tmp_path, build_weighter("EW", 3), save_strategy="steps", save_steps=2)
    with pytest.raises(checkpoints.SaveError, match="checkpoint-2 could not be written: No space left on device"):
        run.train()
    assert not list(tmp_path.glob("checkpoint-*")) and not (tmp_path / ".saving").exists()


def test_a_loss_spoiled_by_a_weight_names_the_strategy_not_the_samples(tmp_path):
    class Unbounded(Weighter):
        def observe(self, mean_K, count_K):
            self.weight_K[0] = float("inf")

    with pytest.raises(ValueError, match=r"step 2: the task weights of Unbounded .* got \[inf, 1.0, 1.0\]"):
        trainer(tmp_path, Unbounded(3)).train()


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path):
    run = trainer(tmp_path, build_weighter("EW", 3))
    before = weights_of(run.model)
    with torch.no_grad():
        run.model.lm_head.weight[5] = float("nan")
        before["lm_head.weight"] = run.model.lm_head.weight.clone()
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan at step 1 \(tasks: a, b, c\)"):
        run.train()
    assert all(torch.equal(p, before[n]) or n == "lm_head.weight" for n, p in run.model.named_parameters())


def test_the_log_has_loss_weight_and_share_of_each_task(tmp_path):
    trainer(tmp_path, build_weighter("EW", 3, WEIGHTS), max_steps=2).train()
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [1, 2]
    assert [task["weight"] for task in lines[0]["tasks"].values()] == WEIGHTS
    assert sum(task["share"] for task in lines[0]["tasks"].values()) == pytest.approx(1)


def test_every_sample_of_an_epoch_is_read_once_on_any_split(tmp_path):
    run = trainer(tmp_path, build_weighter("EW", 3), max_steps=-1, num_train_epochs=1)
    run.state.max_steps = 3
    read = [n for batch in run.get_train_dataloader() for n in batch["sample_indices"]]
    assert sorted(read) == list(range(10))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"remove_unused_columns": True}, "remove_unused_columns must be False"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor must be 0"),
    ],
)
def test_settings_that_would_change_the_loss_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, build_weighter("EW", 3), **settings)


def test_task_names_of_another_number_are_refused(tmp_path):
    with pytest.raises(ValueError, match="task_names must name 4 tasks, got 3"):
        trainer(tmp_path, build_weighter("EW", 4))


@pytest.mark.parametrize(
    ("sample", "message"),
    [({"x": 1}, "must have its task under 'task', got x"), ({"task": "d"}, "must be one of a, b, got 'd'")],
)
def test_collator_refuses_a_sample_without_a_known_task(sample, message):
    with pytest.raises(ValueError, match=message):
        TaskCollator(lambda batch: {}, tasks=["a", "b"])([sample])


class WithoutMask(torch.nn.Module):
    """A model that reads logits_to_keep as a number of last positions, or does not know it."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.config = inner, inner.config

    def forward(self, logits_to_keep=0, **inputs):
        return self.inner(**inputs)


class WithoutKeep(WithoutMask):
    def forward(self, **inputs):
        return self.inner(**inputs)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (WithoutKeep, "WithoutKeep must take logits_to_keep"),
        (WithoutMask, "its logits_to_keep does not accept a mask of positions"),
    ],
)
def test_a_model_that_gives_no_logits_by_mask_is_refused(tmp_path, kind, message):
    with pytest.raises((ValueError, InputError), match=message):
        WeightedTrainer(
            kind(build(FAMILY)),
            arguments(tmp_path),
            train_dataset=samples(FAMILY),
            data_collator=collator(FAMILY),
            weighter=build_weighter("EW", 3, WEIGHTS),
        ).train()
