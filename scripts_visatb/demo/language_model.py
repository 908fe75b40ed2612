"""The demo's language model: a small Llama trained on conversations about pictures given as cell embeddings.

Vicuna knows what a red circle is before it is trained on images. A model of this size would spend most of its
finetuning on learning to attend to image tokens, so this is learned beforehand: at the positions of LLaVA's image
patches it receives the cells of a picture (cells.py) through an embedding that is discarded afterwards.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import LlamaConfig, LlamaTokenizer, PreTrainedTokenizer
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.data.preprocess import preprocess
from scripts_visatb.demo.cells import QUESTIONS, answers_of_cells
from scripts_visatb.demo.drawing import Picture
from scripts_visatb.demo.optimization import double_precision, make_optimizer, take_step
from scripts_visatb.demo.pretraining_text import sample_conversation
from transformers_patch import LlamaForCausalLM

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
    rng = random.Random(f"{seed}/language model")
    for _ in (bar := tqdm(range(recipe.steps), desc="language model", mininterval=2)):
        system = rng.random() < recipe.system
        batch = [encode(*sample_conversation(rng), tokenizer, system) for _ in range(recipe.batch)]
        embeds_BSD = pad_sequence(
            [embed(sample, model.model.embed_tokens, cells) for sample in batch], batch_first=True
        )
        labels_BS = pad_sequence([sample.labels_S for sample in batch], batch_first=True, padding_value=IGNORE_INDEX)
        hidden_BSD = model.model(inputs_embeds=embeds_BSD, attention="sdpa").last_hidden_state
        supervised_BS = labels_BS[:, 1:] != IGNORE_INDEX
        # Not the model's own loss, which is float32.
        loss = F.cross_entropy(model.lm_head(hidden_BSD[:, :-1][supervised_BS]), labels_BS[:, 1:][supervised_BS])
        take_step(loss, optimizer, schedule)
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    model.float().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


@dataclass(frozen=True)
class Sample:
    """A conversation as ids before and after the picture's cells (None: no picture)."""

    before_S: Tensor
    cells_PQ: Tensor | None
    after_S: Tensor
    labels_S: Tensor


def encode(
    turns: list[dict[str, str]], picture: Picture | None, tokenizer: PreTrainedTokenizer, system: bool
) -> Sample:
    """The ids, cells and labels (cells included) of a conversation, with or without v1's system sentence."""
    conversation = conv_templates["plain" if turns[0]["value"] == "<image>" else "vicuna_v1"].copy()
    if not system:
        conversation.system = ""
    ids_and_labels = preprocess(turns, tokenizer, conversation, image_count=int(picture is not None))
    ids_S, labels_S = ids_and_labels["input_ids"], ids_and_labels["labels"]
    if picture is None:
        return Sample(ids_S, None, ids_S[:0], labels_S)
    at = ids_S.tolist().index(IMAGE_TOKEN_INDEX)
    cells_PQ = torch.from_numpy(answers_of_cells(picture))
    unlabelled_P = torch.full((len(cells_PQ),), IGNORE_INDEX)
    labels = torch.cat([labels_S[:at], unlabelled_P, labels_S[at + 1 :]])
    return Sample(ids_S[:at], cells_PQ, ids_S[at + 1 :], labels)


def embed(sample: Sample, words: nn.Embedding, cells: CellEmbedding) -> Tensor:
    """Hidden states [S, D] of a sample's words and cells."""
    if sample.cells_PQ is None:
        return words(sample.before_S)
    return torch.cat([words(sample.before_S), cells(sample.cells_PQ), words(sample.after_S)])
