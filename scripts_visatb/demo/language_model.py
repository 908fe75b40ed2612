"""The demo's language model: a small Llama trained on conversations about pictures given as cell embeddings.

Vicuna knows what a red circle is before it is trained on images. A model of this size would spend most of its
finetuning on learning to attend to image tokens, so this is learned beforehand: at the positions of LLaVA's image
patches it receives the cells of a picture (cells.py) through an embedding that is discarded afterwards.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlamaConfig, LlamaTokenizer
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.data.preprocess import SegmentEncoder, preprocess
from scripts_visatb.demo.cells import QUESTIONS, answers_of_cells
from scripts_visatb.demo.drawing import GRID, Picture
from scripts_visatb.demo.optimization import double_precision, make_optimizer, take_step
from scripts_visatb.demo.pretraining_text import sample_conversation
from transformers_patch import LlamaForCausalLM
from transformers_patch.unpadded import bounds_of, lay_end_to_end

# B batch, S sequence, P cells of a picture, Q questions about a cell, D hidden


@dataclass(frozen=True)
class LanguageRecipe:
    """Size and training of the language model.

    Attributes:
        system: share of the batches whose conversations have v1's system sentence; one such would pad all others.
    """

    hidden: int = 128
    intermediate: int = 256
    layers: int = 2
    heads: int = 4
    system: float = 0.25
    steps: int = 900
    batch: int = 16
    learning_rate: float = 1.5e-3


class CellEmbedding(nn.Module):
    """The cells of pictures as hidden states: the sum of one embedding for each answer."""

    def __init__(self, hidden: int):
        super().__init__()
        widths = [len(choices) for choices in QUESTIONS.values()]
        self.register_buffer("first_Q", torch.tensor([0, *widths[:-1]]).cumsum(0))
        self.embedding = nn.Embedding(sum(widths), hidden)
        # Much larger than the word embeddings and separate from them: with the word embeddings themselves nothing is
        # learned.
        nn.init.normal_(self.embedding.weight, std=0.4)

    def forward(self, answers_PQ: Tensor) -> Tensor:
        """Hidden states [P, D] of answers int64 [P, Q]."""
        return self.embedding(answers_PQ + self.first_Q).sum(dim=1)


def compute_in_double(model: LlamaForCausalLM) -> None:
    """Make a new model's norms and rotary angles float64; transformers computes them in float32 whatever its dtype."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, LlamaRMSNorm):
                setattr(module, name, nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon, dtype=torch.float64))
        if isinstance(module, LlamaRotaryEmbedding):
            exponents = torch.arange(0, module.dim, 2, dtype=torch.float64) / module.dim
            module.inv_freq = module.base**-exponents
            module._set_cos_sin_cache(module.max_seq_len_cached, exponents.device, exponents.dtype)


@double_precision()
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
            initializer_range=0.05,
            pad_token_id=0,
        )
    )
    compute_in_double(model)
    model.train()
    cells = CellEmbedding(recipe.hidden)
    optimizer, schedule = make_optimizer([*model.parameters(), *cells.parameters()], recipe.learning_rate, recipe.steps)
    losses = []
    tokenise = partial(preprocess, tokenizer=tokenizer, encoder=SegmentEncoder(tokenizer))
    rng = random.Random(f"{seed}/language model")
    for _ in (bar := tqdm(range(recipe.steps), desc="language model", mininterval=2)):
        system = rng.random() < recipe.system
        batch = [encode(*sample_conversation(rng), tokenise, system) for _ in range(recipe.batch)]
        loss = conversation_loss(model, cells, batch)
        take_step(loss, optimizer, schedule)
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    model.float().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


@dataclass(frozen=True)
class Sample:
    """A conversation, with IMAGE_TOKEN_INDEX for a picture, and the picture's cells (None: no picture)."""

    ids_S: Tensor
    labels_S: Tensor
    cells_PQ: Tensor | None


def encode(
    turns: list[dict[str, str]], picture: Picture | None, tokenise: Callable[..., dict[str, Tensor]], system: bool
) -> Sample:
    """The ids, labels and cells of a conversation.

    Args:
        turns, picture: the conversation and what it is about.
        tokenise: `preprocess` with its tokenizer.
        system: whether it has v1's system sentence.
    """
    conversation = conv_templates["plain" if turns[0]["value"] == "<image>" else "vicuna_v1"].copy()
    if not system:
        conversation.system = ""
    encoded = tokenise(turns, conversation=conversation, image_count=int(picture is not None))
    cells_PQ = None if picture is None else torch.from_numpy(answers_of_cells(picture))
    return Sample(encoded["input_ids"], encoded["labels"], cells_PQ)


def conversation_loss(model: LlamaForCausalLM, cells: CellEmbedding, batch: list[Sample]) -> Tensor:
    """The mean loss of a batch's supervised tokens, in the model's precision; its own forward takes float32 for it."""
    laid = lay_end_to_end([s.ids_S for s in batch], [s.labels_S for s in batch], IMAGE_TOKEN_INDEX, GRID**2)
    unpadded = laid["unpadded"]
    seen_PQ = torch.cat([s.cells_PQ for s in batch if s.cells_PQ is not None])
    embeds_LD = torch.cat([model.model.embed_tokens(laid["input_ids"][0]), cells(seen_PQ)])
    hidden_1LD = embeds_LD[unpadded["order_L"]][None]
    attention = {"attention_mask": bounds_of(unpadded, for_loss=True), "position_ids": unpadded["position_ids"]}
    hidden_1TD = model.model(inputs_embeds=hidden_1LD, **attention, attention="sdpa", use_cache=False).last_hidden_state
    return F.cross_entropy(model.lm_head(hidden_1TD[0]), unpadded["label_T"])
