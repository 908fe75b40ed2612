"""Several ranks, ZeRO, LoRA and all strategies learn what one process learns with the closed form."""

import json
from pathlib import Path

import pytest
import torch
from forked import run_as_ranks

from perf.closed_form import token_losses
from tests.hf.ranks import RATE, STEPS, data_of, model_of, train, train_all, weighter_of
from tests.hf.tiny_models import collator
from transformers_patch.loss import task_loss_sums

STRATEGIES = ["EW", "EWTB", "DWA", "IGB", "UW"]
SAMPLES_PER_STEP = 8
TOLERANCE = 1e-5


def by_hand(family: str, method: str, lora: bool = False) -> dict[str, torch.Tensor]:
    """The same steps of plain SGD on whole batches, without any trainer."""
    model, data, weighter = model_of(family, lora), data_of(family), weighter_of(method)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(42)).tolist()
    for step in range(STEPS):
        batch = collator(family)([data[n] for n in order[step * SAMPLES_PER_STEP :][:SAMPLES_PER_STEP]])
        loss_T, task_T = token_losses(model, batch)
        loss_sum_K, count_K = task_loss_sums(loss_T, task_T, weighter.num_tasks)
        weighter.begin_step()
        model.zero_grad()
        weighter(loss_T, task_T, count_K).backward()
        weighter.observe(loss_sum_K / count_K, count_K)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= RATE * parameter.grad
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest difference of any parameter."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).abs().max()) for name in expected)


def launch(cases: list[dict], folder: Path) -> list[dict[str, torch.Tensor]]:
    """Train cases on two ranks over gloo."""
    run_as_ranks(train_all, 2, cases, folder)
    return [torch.load(folder / f"{n}.pt", weights_only=True) for n in range(len(cases))]


@pytest.mark.parametrize("method", STRATEGIES)
def test_every_strategy_learns_the_same_when_accumulating(method, tmp_path):
    expected = by_hand("qwen2_5_vl", method)
    for split in ([8, 1], [4, 2], [1, 8]):
        found = train({"family": "qwen2_5_vl", "method": method, "split": split}, tmp_path / str(split[0]))
        assert distance(found, expected) < TOLERANCE


@pytest.mark.parametrize("family", ["qwen3_vl", "internvl"])
def test_lora_learns_what_the_closed_form_learns(family, tmp_path):
    found = train({"family": family, "method": "EW", "split": [2, 4], "lora": True}, tmp_path)
    assert distance(found, by_hand(family, "EW", lora=True)) < TOLERANCE


def test_two_ranks_learn_what_one_process_learns(tmp_path):
    cases = [{"family": "qwen3_vl", "method": method, "split": [2, 2]} for method in STRATEGIES]
    cases += [{"family": family, "method": "EW", "split": [4, 1]} for family in ("qwen2_vl", "smolvlm", "internvl")]
    cases += [{"family": "qwen2_5_vl", "method": "DWA", "split": [2, 2], "lora": True}]
    for case, found in zip(cases, launch(cases, tmp_path), strict=True):
        expected = by_hand(case["family"], case["method"], case.get("lora", False))
        assert distance(found, expected) < TOLERANCE, case


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_learns_what_one_process_learns(stage, tmp_path):
    file = tmp_path / "zero.json"
    zero = {"stage": stage, "stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True}
    if stage == 2:
        zero = {"stage": 2}
    auto = "auto"
    content = {"zero_optimization": zero, "train_micro_batch_size_per_gpu": auto, "train_batch_size": auto}
    content |= {"gradient_accumulation_steps": auto, "gradient_clipping": 0, "zero_allow_untested_optimizer": True}
    file.write_text(json.dumps(content))
    model_of("qwen2_5_vl").save_pretrained(tmp_path / "model")
    same = {"split": [2, 2], "settings": {"deepspeed": str(file)}, "saved": str(tmp_path / "model")}
    methods = STRATEGIES if stage == 3 else ("EW", "DWA")
    cases = [{"family": "qwen2_5_vl", "method": method, **same} for method in methods]
    for case, found in zip(cases, launch(cases, tmp_path), strict=True):
        assert distance(found, by_hand(case["family"], case["method"])) < TOLERANCE, case
