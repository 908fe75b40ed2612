"""The demo's vision tower: a small CLIP vision model that has learned what covers each patch of a picture.

CLIP itself learns from hundreds of millions of captions; in a minute, telling the patches apart teaches more. The heads
that ask for colour, kind, size, letter, value and box of what lies on a patch are thrown away afterwards.
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
from scripts_visatb.demo import annotations, drawing
from scripts_visatb.demo.drawing import Box, Card, Picture, Scene
from scripts_visatb.demo.optimization import QuickOptimizer

# B batch, P patches of a picture, D hidden

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PADDING = tuple(int(value * 255) for value in MEAN)

CHARACTERS = "0123456789" + "".join(sorted({letter.upper() for word in drawing.WORDS for letter in word}))
# What a patch is asked for: classes by name; the first class of each is "does not apply".
QUESTIONS: dict[str, tuple[str, ...]] = {
    "ground": ("outside", *drawing.BACKGROUNDS),
    "kind": ("none", *drawing.SHAPES, "letter", "bar"),
    "color": ("none", *drawing.COLORS),
    "size": ("none", *drawing.SIZES),
    "character": ("none", *CHARACTERS),
    "order": ("none", "1", "2", "3"),
    "value": ("none", *map(str, range(1, drawing.MAX_BAR + 1))),
}
COVERED = 0.25
# Which tasks' pictures the tower sees.
_SEEN = ("SceneCaption", "SceneCaption", "TextChartQA")


@dataclass(frozen=True)
class TowerRecipe:
    """Size and training of the tower. `layers` counts the one that LLaVA's select layer -2 leaves unused."""

    hidden: int = 128
    layers: int = 3
    heads: int = 4
    image_size: int = 56
    patch_size: int = 8
    steps: int = 1500
    batch: int = 16
    matrix_rate: float = 4e-3
    other_rate: float = 2e-3

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size


def train_vision_tower(folder: Path, recipe: TowerRecipe, seed: int) -> dict[str, float]:
    """Train the tower and save it with its image processor's settings.

    Returns:
        share of patches answered right by question, where it applies, and `box`: mean error of an edge as a share of
        the picture's side; over the last tenth of the training.
    """
    torch.manual_seed(seed)
    model = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=recipe.hidden,
            intermediate_size=4 * recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            image_size=recipe.image_size,
            patch_size=recipe.patch_size,
            projection_dim=recipe.hidden,
            initializer_range=0.05,
        )
    )
    heads = PatchQuestions(recipe.hidden)
    encoder = model.vision_model.encoder
    every_layer = encoder.layers
    encoder.layers = every_layer[:-1]  # LLaVA reads the layer before the last; the last stays as it is made
    optimizer = QuickOptimizer([model, heads], recipe.steps, recipe.matrix_rate, recipe.other_rate)
    rng = random.Random(f"{seed}/vision tower")
    tallies = []
    for step in (bar := tqdm(range(recipe.steps), desc="vision tower", mininterval=2)):
        pixels, targets, boxes = sample_batch(rng, recipe)
        features_BPD = model(pixels).last_hidden_state[:, 1:]
        loss, tally = heads(features_BPD, targets, boxes)
        optimizer.step(loss)
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if step >= recipe.steps - max(1, recipe.steps // 10):
            tallies.append(tally)
    encoder.layers = every_layer
    model.save_pretrained(folder, safe_serialization=True)
    size = recipe.image_size
    CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, image_mean=MEAN, image_std=STD
    ).save_pretrained(folder)
    return {name: sum(tally[name] for tally in tallies) / len(tallies) for name in tallies[0]}


class PatchQuestions(nn.Module):
    """One linear layer that answers every question about every patch."""

    def __init__(self, hidden: int):
        super().__init__()
        self.widths = [len(classes) for classes in QUESTIONS.values()] + [4]
        self.linear = nn.Linear(hidden, sum(self.widths))

    def forward(self, features_BPD: Tensor, targets: Tensor, boxes: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The loss, and how well it went.

        Args:
            features_BPD: patch features.
            targets: class by question, int64 [B, P, questions].
            boxes: box of what lies on the patch as shares of the square [B, P, 4]; all zero where there is nothing.
        """
        *answers, edges = self.linear(features_BPD).split(self.widths, dim=-1)
        loss, tally = features_BPD.new_zeros(()), {}
        for n, (name, logits) in enumerate(zip(QUESTIONS, answers, strict=True)):
            target_BP = targets[..., n]
            applies = target_BP > 0
            # Most patches are empty: half of the loss comes from those where the question applies.
            loss_BP = F.cross_entropy(logits.flatten(0, 1), target_BP.flatten(), reduction="none")
            loss = loss + loss_BP.mean() + loss_BP[applies.flatten()].sum() / applies.sum().clamp(min=1)
            right = (logits.argmax(-1) == target_BP) & applies
            tally[name] = (right.sum() / applies.sum().clamp(min=1)).item()
        covered = boxes[..., 2] > 0
        error = (edges - boxes)[covered].abs()
        tally["box"] = error.mean().item()
        return loss + 10 * error.mean(), tally


def sample_batch(rng: random.Random, recipe: TowerRecipe) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [B, 3, H, W], classes int64 [B, P, questions] and boxes [B, P, 4] of pictures of the pretraining half."""
    pixels, targets, boxes = [], [], []
    for _ in range(recipe.batch):
        picture = annotations.describe(rng.choice(_SEEN), rng)
        while not drawing.is_for_pretraining(picture):
            picture = annotations.describe(rng.choice(_SEEN), rng)
        pixels.append(_pixels(drawing.render(picture), recipe.image_size))
        classes, edges = patch_targets(picture, recipe.grid)
        targets.append(classes)
        boxes.append(edges)
    pixels_BHWC = torch.from_numpy(np.stack(pixels)).float() / 255
    normalised = (pixels_BHWC - torch.tensor(MEAN)) / torch.tensor(STD)
    return (
        normalised.permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack(targets)),
        torch.from_numpy(np.stack(boxes)),
    )


def patch_targets(picture: Picture, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """What is true of each patch: classes int64 [P, questions], boxes float32 [P, 4]."""
    classes = np.zeros((grid, grid, len(QUESTIONS)), dtype=np.int64)
    boxes = np.zeros((grid, grid, 4), dtype=np.float32)
    index = {name: {value: k for k, value in enumerate(values)} for name, values in QUESTIONS.items()}
    names = list(QUESTIONS)

    def cover(box: Box, whole: Box, said: dict[str, str]) -> None:
        shares = np.array(drawing.in_padded_square(box, picture.width, picture.height))
        low, high = shares[:2] * grid, shares[2:] * grid
        starts = np.arange(grid)
        wide = np.clip(np.minimum(high[0], starts + 1) - np.maximum(low[0], starts), 0, None)
        tall = np.clip(np.minimum(high[1], starts + 1) - np.maximum(low[1], starts), 0, None)
        on = np.outer(tall, wide) >= COVERED
        for name, value in said.items():
            classes[on, names.index(name)] = index[name][value]
        if "ground" not in said:
            boxes[on] = drawing.in_padded_square(whole, picture.width, picture.height)

    everything = (0, 0, picture.width, picture.height)
    cover(everything, everything, {"ground": picture.background})
    if isinstance(picture, Scene):
        for shape in picture.shapes:
            cover(shape.box, shape.box, {"kind": shape.kind, "color": shape.color, "size": shape.size})
    elif isinstance(picture, Card):
        whole = drawing.text_box(picture)
        for n, (letter, box) in enumerate(drawing.letter_boxes(picture), 1):
            cover(box, whole, {"kind": "letter", "color": picture.color, "character": letter, "order": str(n)})
    else:
        for color, value, box in picture.bars:
            cover(box, box, {"kind": "bar", "color": color, "value": str(value)})
    return classes.reshape(grid * grid, -1), boxes.reshape(grid * grid, 4)


def _pixels(image: Image.Image, size: int) -> np.ndarray:
    """Pixels uint8 [size, size, 3] as `pad` and the image processor make them."""
    square = expand2square(image, PADDING)
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
