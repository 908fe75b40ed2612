"""A dataset of random token ids and a very small Llama, for tests of the Trainer without images or a tokenizer."""

from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, TrainingArguments

from transformers_patch import LlamaForCausalLM, Trainer, Weighter


class Sentences(Dataset):
    """Random samples of very unequal numbers of supervised tokens, one in six without any."""

    def __init__(self, size: int = 22):
        draw = torch.Generator().manual_seed(5)
        self.samples = []
        for n in range(size):
            ids = torch.randint(3, 50, (14,), generator=draw)
            labels = ids.clone()
            labels[: [13, 1, 9, 14, 4, 11][n % 6]] = -100
            self.samples.append({"input_ids": ids, "labels": labels, "task_ids": n * n % 3})

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, n: int) -> dict:
        return self.samples[n]


def collate(samples: list[dict]) -> dict[str, torch.Tensor]:
    """The batch of some samples, `task_ids` included."""
    batch = {key: torch.stack([s[key] for s in samples]) for key in ("input_ids", "labels")}
    return batch | {"task_ids": torch.tensor([s["task_ids"] for s in samples])}


def model() -> LlamaForCausalLM:
    """A Llama of one layer, the same each time."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=50,
            use_cache=False,
        )
    )


def make_trainer(
    folder: Path,
    weighter: Weighter | None,
    dataset: Dataset | None = None,
    normalization: str = "step",
    callbacks: list | None = None,
    **arguments,
) -> Trainer:
    """A Trainer of `model` on `Sentences` with tasks a, b, c that logs every step to folder/log.jsonl."""
    settings = {
        "output_dir": str(folder),
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "num_train_epochs": 2,
        "remove_unused_columns": False,
        "no_cuda": True,
    }
    return Trainer(
        model(),
        TrainingArguments(**settings | arguments),
        collate,
        dataset or Sentences(),
        weighter=weighter,
        loss_normalization=normalization,
        task_names=["a", "b", "c"],
        log_file=folder / "log.jsonl",
        callbacks=callbacks,
    )
