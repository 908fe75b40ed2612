"""--torch_compile True: compiled decoder layers train as the others do (aot_eager, which needs no compiler)."""

import json
import shutil
from dataclasses import replace

import pytest
import sentences
import torch
from accelerate.utils import DynamoBackend
from peft import LoraConfig, get_peft_model
from sentences import Sentences, make_trainer
from torch._dynamo.testing import CompileCounterWithBackend

from perf.gpu_cases import SMALL, build, inputs_for
from transformers_patch import EqualWeighting
from transformers_patch.compilation import compile_layers
from transformers_patch.settings import check_compiler


@pytest.fixture(autouse=True)
def nothing_stays_compiled(monkeypatch):
    # transformers sets them when it reads its arguments
    for name in ("ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE"):
        monkeypatch.setenv(name, "no")
        monkeypatch.delenv(name)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Unequal(Sentences):
    """Samples of 6 to 14 ids, so that rows of several samples have many lengths."""

    def __init__(self):
        super().__init__(24)
        for n, sample in enumerate(self.samples):
            sample["attention_mask"] = (torch.arange(14) < 6 + n % 9).long()
            sample["labels"] = sample["labels"].masked_fill(sample["attention_mask"] == 0, -100)


def with_lora():
    torch.manual_seed(1)
    return get_peft_model(sentences_model(), LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))


sentences_model = sentences.model


def collate(samples):
    batch = {key: torch.stack([s[key] for s in samples]) for key in ("input_ids", "labels", "attention_mask")}
    return batch | {"task_ids": torch.tensor([s["task_ids"] for s in samples])}


def losses(folder, monkeypatch, lora=False, **arguments):
    monkeypatch.setattr(sentences, "collate", collate)
    monkeypatch.setattr(sentences, "model", with_lora if lora else sentences_model)
    run = make_trainer(folder, EqualWeighting(3), Unequal(), max_steps=6, per_device_train_batch_size=5, **arguments)
    run.train()
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()], run


@pytest.mark.parametrize("how", [{}, {"gradient_checkpointing": True}, {"lora": True}, {"bf16": True}])
def test_compiled_layers_train_as_the_others(tmp_path, monkeypatch, how):
    expected, plain = losses(tmp_path / "plain", monkeypatch, **how)
    torch._dynamo.utils.counters.clear()
    found, compiled = losses(tmp_path / "compiled", monkeypatch, torch_compile_backend="aot_eager", **how)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert compiled.accelerator.state.dynamo_plugin.backend == DynamoBackend.NO
    assert found == pytest.approx(expected, abs=1e-3 if how.get("bf16") else 1e-5)
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())


def test_all_layers_lengths_and_numbers_of_samples_share_graphs():
    counts = []
    for layers in (1, 3):
        torch._dynamo.reset()
        model, counter = build(SMALL, layers, "unpadded", "cpu", torch.float32), CompileCounterWithBackend("aot_eager")
        compile_layers(model, counter)
        for lengths in [(5, 9, 13), (4, 8), (3, 7, 11, 12), (6, 6, 6, 6, 6)]:
            model(**inputs_for(replace(SMALL, lengths=lengths), "unpadded", "cpu")).loss.backward()
            counts.append(counter.frame_count)
    assert counts == [counts[0]] * 8 and counts[0] > 0


def test_deepspeed_is_refused(tmp_path):
    args = make_trainer(tmp_path, EqualWeighting(3)).args
    args.deepspeed = "zero3.json"
    with pytest.raises(ValueError, match="torch_compile with DeepSpeed"):
        check_compiler(args)


def test_a_missing_compiler_is_reported_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler"):
        make_trainer(tmp_path, EqualWeighting(3), torch_compile=True)
