"""The demo's language model: a small Llama that has read conversations about text pictures."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import LlamaConfig, LlamaTokenizer, PreTrainedTokenizer

from llava.constants import IGNORE_INDEX
from llava.conversation import conv_templates
from llava.data.preprocess import preprocess
from scripts_visatb.demo.pretraining_text import sample_turns
from transformers_patch import LlamaForCausalLM

# B batch, S sequence


@dataclass(frozen=True)
class LanguageRecipe:
    """Size and training of the language model.

    Attributes:
        shares: how often each task's kind of conversation is read.
        grid: cells along a side of a text picture: the patches along a side of the tower's input.
    """

    shares: tuple[tuple[str, float], ...] = (
        ("SceneCaption", 1.0),
        ("RegionCaption", 1.0),
        ("ShapeVQA", 1.0),
        ("TextChartQA", 1.0),
        ("Grounding", 1.0),
        ("Chat", 0.5),
    )
    hidden: int = 128
    intermediate: int = 352
    layers: int = 3
    heads: int = 4
    grid: int = 7
    steps: int = 260
    batch: int = 16
    learning_rate: float = 2e-3


def train_language_model(tokenizer_folder: Path, folder: Path, recipe: LanguageRecipe, seed: int) -> float:
    """Train the model from scratch and save it with its tokenizer; returns the last tenth's mean loss."""
    torch.manual_seed(seed)
    tokenizer = LlamaTokenizer.from_pretrained(tokenizer_folder)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            max_position_embeddings=512,
            rms_norm_eps=1e-5,
            initializer_range=0.04,  # LLaMA's 0.02 is made for widths in the thousands
            pad_token_id=0,
        )
    )
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(recipe.steps))
    losses = []
    batches = _batches(tokenizer, recipe, seed)
    for _ in (bar := tqdm(range(recipe.steps), desc="language model", mininterval=2)):
        input_ids_BS, labels_BS = next(batches)
        loss = model(input_ids=input_ids_BS, labels=labels_BS, use_cache=False).loss
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def warmup_cosine(steps: int, warmup: float = 0.05):
    """Factor of the learning rate by step: linear warm-up, then a half cosine down to 5 %."""
    rise = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.05 + 0.95 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2

    return factor


def _batches(tokenizer: PreTrainedTokenizer, recipe: LanguageRecipe, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches: input_ids [B, S], labels [B, S], padded on the right (the causal mask hides what is behind)."""
    rng = random.Random(f"{seed}/language model")
    names, shares = zip(*recipe.shares, strict=True)
    while True:
        tasks = rng.choices(names, shares, k=recipe.batch)
        samples = [
            preprocess(sample_turns(task, rng, recipe.grid), tokenizer, conv_templates["vicuna_v1"], image_count=0)
            for task in tasks
        ]
        yield (
            pad_sequence([sample["input_ids"] for sample in samples], batch_first=True),
            pad_sequence([sample["labels"] for sample in samples], batch_first=True, padding_value=IGNORE_INDEX),
        )
