"""Trains tiny models and saves what became of them: as one process, or as one of several ranks.

Each case: family, method (strategy), split [per device, accumulation], settings (of TrainingArguments), lora, saved (a
folder of the model).
"""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, TrainingArguments

from tests.hf.tiny_models import Sample, build, collator, samples
from transformers_patch import build_weighter
from visatb_hf import WeightedTrainer

STEPS, COUNT = 3, 24
CONSTANTS = {"DWA": {"window": 1}, "IGB": {"window": 1}, "UW": {"lr": 0.1}}
WEIGHTS = [0.5, 1.0, 2.5]
RATE = 0.05


def weighter_of(method: str) -> Any:
    """A strategy whose weights move within a few steps."""
    weights = WEIGHTS if method in ("EW", "EWTB") else None
    return build_weighter(method, 3, weights, seed=0, **CONSTANTS.get(method, {}))


def data_of(family: str) -> list[Sample]:
    """The training set of all cases; every micro-batch of the tested splits but the last of 1 x 8 has an image."""
    return samples(family, COUNT, every_image=1)


def model_of(family: str, lora: bool = False, saved: str | None = None) -> torch.nn.Module:
    """The model that is trained; ZeRO-3 wants it loaded from a folder."""
    model = build(family) if saved is None else AutoModelForImageTextToText.from_pretrained(saved)
    if lora:
        torch.manual_seed(3)
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    return model


def train(case: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    """Train one case; the trained parameters by name (on rank 0 of ZeRO-3 the gathered ones)."""
    per_device, accumulation = case["split"]
    args = TrainingArguments(
        str(folder),
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        max_steps=STEPS,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        optim="sgd",
        remove_unused_columns=False,
        report_to=[],
        save_strategy="no",
        max_grad_norm=0,
        disable_tqdm=True,
        use_cpu=True,
        **case.get("settings", {}),
    )
    if args.deepspeed:
        import deepspeed

        deepspeed.init_distributed("gloo")  # accelerate does it on GPUs only
    model = model_of(case["family"], case.get("lora", False), case.get("saved"))
    family = case["family"]
    trainer = WeightedTrainer(
        model, args, train_dataset=data_of(family), data_collator=collator(family), weighter=weighter_of(case["method"])
    )
    trainer.train()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if args.deepspeed:
        with deepspeed.zero.GatheredParameters([p for _, p in trained]):
            return {name: p.detach().clone() for name, p in trained}
    return {name: p.detach().clone() for name, p in trained}


def train_all(rank: int, cases: list[dict[str, Any]], folder: Path) -> None:
    """Train all cases as one of several ranks."""
    torch.set_num_threads(1)
    for n, case in enumerate(cases):
        state = train(case, folder / f"run-{n}")
        if rank == 0:
            torch.save(state, folder / f"{n}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
