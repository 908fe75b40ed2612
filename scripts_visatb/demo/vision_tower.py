"""The demo's vision tower: a small CLIP vision model trained to classify the content of each patch.

CLIP itself learns from hundreds of millions of captions; in a minute, classifying patches teaches more. The heads that
classify each patch (cells.py) are discarded afterwards.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from llava.mm_utils import expand2square
from scripts_visatb.demo import drawing
from scripts_visatb.demo.annotations import describe_for_pretraining
from scripts_visatb.demo.cells import QUESTIONS, answers_of_cells
from scripts_visatb.demo.optimization import double_precision, make_optimizer, take_step

# B batch, P patches of a picture, Q questions about a patch, D hidden

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
IMAGE_SIZE = drawing.GRID * drawing.CELL
PADDING = tuple(int(value * 255) for value in MEAN)
# Which tasks' pictures the tower sees.
_SEEN = ("SceneCaption", "TextChartQA")


@dataclass(frozen=True)
class TowerRecipe:
    """Size and training of the tower. `layers` counts the one that LLaVA's select layer -2 leaves unused."""

    hidden: int = 96
    layers: int = 2
    heads: int = 4
    steps: int = 400
    batch: int = 32
    learning_rate: float = 2e-3


@double_precision()
def train_vision_tower(folder: Path, recipe: TowerRecipe, seed: int) -> dict[str, float]:
    """Train the tower and save it with its image processor's settings.

    Returns:
        accuracy over patches by question, where it applies, over the last tenth of the training.
    """
    torch.manual_seed(seed)
    model = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=recipe.hidden,
            intermediate_size=4 * recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            image_size=IMAGE_SIZE,
            patch_size=drawing.CELL,
            projection_dim=recipe.hidden,
            initializer_range=0.05,
        )
    )
    heads = PatchQuestions(recipe.hidden)
    encoder = model.vision_model.encoder
    every_layer = encoder.layers
    encoder.layers = every_layer[:-1]  # LLaVA reads the layer before the last; the last is not trained
    optimizer, schedule = make_optimizer([*model.parameters(), *heads.parameters()], recipe.learning_rate, recipe.steps)
    rng = random.Random(f"{seed}/vision tower")
    tallies = []
    for step in (bar := tqdm(range(recipe.steps), desc="vision tower", mininterval=2)):
        pixels, answers_BPQ = sample_batch(rng, recipe)
        features_BPD = model(pixels).last_hidden_state[:, 1:]
        loss, tally = heads(features_BPD, answers_BPQ)
        take_step(loss, optimizer, schedule)
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if step >= recipe.steps - max(1, recipe.steps // 10):
            tallies.append(tally)
    encoder.layers = every_layer
    model.float().save_pretrained(folder, safe_serialization=True)
    size = IMAGE_SIZE
    CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, image_mean=MEAN, image_std=STD
    ).save_pretrained(folder)
    return {name: sum(tally[name] for tally in tallies) / len(tallies) for name in tallies[0]}


class PatchQuestions(nn.Module):
    """One linear layer that answers every question about every patch."""

    def __init__(self, hidden: int):
        super().__init__()
        self.widths = [len(choices) for choices in QUESTIONS.values()]
        self.linear = nn.Linear(hidden, sum(self.widths))

    def forward(self, features_BPD: Tensor, answers_BPQ: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The loss, and the accuracy by question.

        Args:
            features_BPD: patch features.
            answers_BPQ: int64, positions in QUESTIONS' tuples; 0 where a question does not apply.
        """
        loss, tally = features_BPD.new_zeros(()), {}
        said = self.linear(features_BPD).split(self.widths, dim=-1)
        for name, logits, answer_BP in zip(QUESTIONS, said, answers_BPQ.unbind(-1), strict=True):
            applies = answer_BP > 0
            # Most patches are empty: half of the loss comes from those where the question applies.
            loss_BP = F.cross_entropy(logits.flatten(0, 1), answer_BP.flatten(), reduction="none")
            loss = loss + loss_BP.mean() + loss_BP[applies.flatten()].sum() / applies.sum().clamp(min=1)
            right = (logits.argmax(-1) == answer_BP) & applies
            tally[name] = (right.sum() / applies.sum().clamp(min=1)).item()
        return loss, tally


def sample_batch(rng: random.Random, recipe: TowerRecipe) -> tuple[Tensor, Tensor]:
    """Pixels [B, 3, H, W] and answers int64 [B, P, Q] of pictures of the pretraining half."""
    pictures = [describe_for_pretraining(rng.choice(_SEEN), rng) for _ in range(recipe.batch)]
    pixels_BHWC = np.stack([_pixels(drawing.render(picture), IMAGE_SIZE) for picture in pictures])
    normalised = (torch.from_numpy(pixels_BHWC) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    answers = np.stack([answers_of_cells(picture) for picture in pictures])
    return normalised.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(answers)


def _pixels(image: Image.Image, size: int) -> np.ndarray:
    """Pixels uint8 [size, size, 3] as `pad` and the image processor make them."""
    square = expand2square(image, PADDING)
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
