"""The demo's language model: a small Llama that has read conversations about pictures told in words."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import LlamaConfig, LlamaTokenizer, PreTrainedTokenizer

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.data.preprocess import preprocess
from scripts_visatb.demo.drawing import Picture
from scripts_visatb.demo.optimization import QuickOptimizer
from scripts_visatb.demo.pretraining_text import sample_conversation, told_picture, told_pieces
from transformers_patch import LlamaForCausalLM

# B batch, S sequence, W words said at a position, P cells of a picture, D hidden

WORDS_PER_CELL = 7


@dataclass(frozen=True)
class LanguageRecipe:
    """Size and training of the language model.

    Attributes:
        grid: cells along a side of a told picture: the patches along a side of the tower's input.
        rounds: questions about one picture.
    """

    hidden: int = 128
    intermediate: int = 256
    layers: int = 2
    heads: int = 4
    grid: int = 7
    rounds: int = 6
    steps: int = 550
    batch: int = 8
    matrix_rate: float = 6e-3
    other_rate: float = 4e-3


def train_language_model(tokenizer_folder: Path, folder: Path, recipe: LanguageRecipe, seed: int) -> float:
    """Train the model from scratch and save it with its tokenizer; returns the last tenth's mean loss."""
    torch.manual_seed(seed)
    tokenizer = LlamaTokenizer.from_pretrained(tokenizer_folder)
    unknown = [piece for piece in told_pieces() if piece not in tokenizer.get_vocab()]
    assert not unknown, f"the tokenizer has no piece for {unknown}"
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
    optimizer = QuickOptimizer([model], recipe.steps, recipe.matrix_rate, recipe.other_rate)
    losses = []
    batches = _batches(tokenizer, recipe, seed)
    for _ in (bar := tqdm(range(recipe.steps), desc="language model", mininterval=2)):
        words_BSW, labels_BS = next(batches)
        embeds_BSD = embed_words(model.get_input_embeddings(), words_BSW)
        loss = model(inputs_embeds=embeds_BSD, labels=labels_BS, use_cache=False).loss
        optimizer.step(loss)
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def embed_words(embedding: nn.Embedding, words_BSW: Tensor) -> Tensor:
    """The sum of the embeddings of the words at each position [B, S, D]; id -1 is no word."""
    said_BSW = words_BSW >= 0
    return (embedding(words_BSW.clamp(min=0)) * said_BSW.unsqueeze(-1)).sum(dim=2)


def told_sample(
    turns: list[dict[str, str]], picture: Picture | None, tokenizer: PreTrainedTokenizer, grid: int
) -> tuple[Tensor, Tensor]:
    """Word ids [S, W] (one word per position, several for a cell of the picture) and labels [S] of a conversation."""
    sample = preprocess(turns, tokenizer, conv_templates["vicuna_v1"], image_count=int(picture is not None))
    ids_S, labels_S = sample["input_ids"], sample["labels"]
    words_SW = F.pad(ids_S.unsqueeze(1), (0, WORDS_PER_CELL - 1), value=-1)
    if picture is None:
        return words_SW, labels_S
    at = ids_S.tolist().index(IMAGE_TOKEN_INDEX)
    cells = [tokenizer.convert_tokens_to_ids(list(cell)) for cell in told_picture(picture, grid)]
    cells_PW = torch.tensor([cell + [-1] * (WORDS_PER_CELL - len(cell)) for cell in cells])
    unlabelled_P = torch.full((len(cells),), IGNORE_INDEX)
    return (
        torch.cat([words_SW[:at], cells_PW, words_SW[at + 1 :]]),
        torch.cat([labels_S[:at], unlabelled_P, labels_S[at + 1 :]]),
    )


def _batches(tokenizer: PreTrainedTokenizer, recipe: LanguageRecipe, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches: words [B, S, W], labels [B, S], padded on the right (the causal mask hides what is behind)."""
    rng = random.Random(f"{seed}/language model")
    while True:
        samples = [
            told_sample(*sample_conversation(rng, recipe.rounds), tokenizer, recipe.grid) for _ in range(recipe.batch)
        ]
        yield (
            pad_sequence([words_SW for words_SW, _ in samples], batch_first=True, padding_value=-1),
            pad_sequence([labels_S for _, labels_S in samples], batch_first=True, padding_value=IGNORE_INDEX),
        )
