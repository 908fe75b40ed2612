"""Tiny models with random weights of the families that visatb_hf trains, and samples for them, made without a network.

Shapes: T tokens of a sample, S of a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch.nn.utils.rnn import pad_sequence

VOCABULARY = 128
IMAGE, VISION_START, VISION_END, VIDEO = 120, 121, 122, 123
IGNORE_INDEX = -100
Sample = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """One kind of model.

    Attributes:
        build: a new model with random weights.
        image_ids: token ids of one image.
        pixels: the model's inputs for a number of images.
        token_types: whether the model wants mm_token_type_ids.
    """

    build: Callable[[], transformers.PreTrainedModel]
    image_ids: tuple[int, ...]
    pixels: Callable[[int, torch.Generator], dict[str, torch.Tensor]]
    token_types: bool = False


def text_settings(**more: Any) -> dict[str, Any]:
    """The configuration of a tiny language model."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **more,
    }


_QWEN_TOKENS = {
    "image_token_id": IMAGE,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
    "video_token_id": VIDEO,
}
_MROPE = {"rope_type": "default", "type": "mrope", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def _qwen2_vl() -> transformers.PreTrainedModel:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 14}
    config = transformers.Qwen2VLConfig(
        text_config=text_settings(rope_scaling=_MROPE), vision_config=vision, **_QWEN_TOKENS
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


def _qwen2_5_vl() -> transformers.PreTrainedModel:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "out_hidden_size": 32,
        "patch_size": 14,
        "fullatt_block_indexes": [1],
    }
    config = transformers.Qwen2_5_VLConfig(
        text_config=text_settings(rope_scaling=_MROPE), vision_config=vision, **_QWEN_TOKENS
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl() -> transformers.PreTrainedModel:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "out_hidden_size": 32,
        "patch_size": 14,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    text = text_settings(head_dim=8, rope_scaling=_MROPE | {"mrope_interleaved": True})
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **_QWEN_TOKENS)
    return transformers.Qwen3VLForConditionalGeneration(config)


def _internvl() -> transformers.PreTrainedModel:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": [28, 28],
        "patch_size": [7, 7],
    }
    config = transformers.InternVLConfig(
        text_config={"model_type": "qwen2", **text_settings()}, vision_config=vision, image_token_id=IMAGE
    )
    return transformers.InternVLForConditionalGeneration(config)


def _smolvlm() -> transformers.PreTrainedModel:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 7,
    }
    config = transformers.SmolVLMConfig(
        text_config={"model_type": "llama", **text_settings()},
        vision_config=vision,
        image_token_id=IMAGE,
        scale_factor=2,
    )
    return transformers.SmolVLMForConditionalGeneration(config)


def _llava_onevision() -> transformers.PreTrainedModel:
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 7,
    }
    config = transformers.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text_settings()},
        vision_config=vision,
        image_token_id=IMAGE,
        image_grid_pinpoints=[[28, 28]],
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config)


def _llava() -> transformers.PreTrainedModel:
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 7,
    }
    config = transformers.LlavaConfig(
        text_config={"model_type": "llama", **text_settings()},
        vision_config=vision,
        image_token_index=IMAGE,
        vision_feature_layer=-2,
        image_seq_length=16,
    )
    return transformers.LlavaForConditionalGeneration(config)


def _grid(count: int, generator: torch.Generator, patch: int = 14) -> dict[str, torch.Tensor]:
    pixels = torch.randn(16 * count, 3 * 2 * patch * patch, generator=generator)
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]] * count)}


def _squares(count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(count, 3, 28, 28, generator=generator)}


def _tiles(count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Of each image the whole (16 positions) and one tile (4 rows of 4 and a line break)."""
    pixels = torch.randn(count, 2, 3, 28, 28, generator=generator)
    sizes = {"image_sizes": torch.tensor([[28, 28]] * count), "batch_num_images": torch.ones(count, dtype=torch.long)}
    return {"pixel_values": pixels} | sizes


_QWEN_IMAGE = (VISION_START, *[IMAGE] * 4, VISION_END)
FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(_qwen2_vl, _QWEN_IMAGE, _grid, token_types=True),
    "qwen2_5_vl": Family(_qwen2_5_vl, _QWEN_IMAGE, _grid, token_types=True),
    "qwen3_vl": Family(_qwen3_vl, _QWEN_IMAGE, _grid, token_types=True),
    "internvl": Family(_internvl, (IMAGE,) * 4, _squares),
    "smolvlm": Family(_smolvlm, (IMAGE,) * 4, lambda n, g: {"pixel_values": _squares(n, g)["pixel_values"][None]}),
    "llava_onevision": Family(_llava_onevision, (IMAGE,) * 36, _tiles),
    "llava": Family(_llava, (IMAGE,) * 16, _squares),
}


def build(family: str, seed: int = 0) -> transformers.PreTrainedModel:
    """A model of a family with random weights."""
    torch.manual_seed(seed)
    return FAMILIES[family].build()


def samples(family: str, count: int = 8, tasks: int = 3, seed: int = 1, every_image: int = 2) -> list[Sample]:
    """Samples of unequal length and supervision, every `every_image`-th with an image (0: none): ids, labels, task."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for n in range(count):
        length = int(torch.randint(4, 12, (1,), generator=generator))
        ids = torch.randint(3, 100, (length,), generator=generator)
        labels = ids.clone()
        labels[: int(torch.randint(1, length - 1, (1,), generator=generator))] = IGNORE_INDEX
        has_image = every_image > 0 and n % every_image == 0
        if has_image:
            image = torch.tensor(FAMILIES[family].image_ids)
            ids, labels = torch.cat([image, ids]), torch.cat([torch.full_like(image, IGNORE_INDEX), labels])
        made.append({"ids": ids, "labels": labels, "task": n % tasks, "images": int(has_image), "seed": n})
    return made


def collator(family: str) -> Callable[[Sequence[Sample]], dict[str, torch.Tensor]]:
    """The batch of a family's samples; a sample's pixels follow from its seed."""
    kind = FAMILIES[family]

    def collate(batch: Sequence[Sample]) -> dict[str, torch.Tensor]:
        ids = pad_sequence([one["ids"] for one in batch], batch_first=True)
        length_B = torch.tensor([len(one["ids"]) for one in batch])
        made = {
            "input_ids": ids,
            "labels": pad_sequence([one["labels"] for one in batch], batch_first=True, padding_value=IGNORE_INDEX),
            "attention_mask": (torch.arange(ids.shape[1]) < length_B[:, None]).long(),
            "task_ids": torch.tensor([one["task"] for one in batch]),
        }
        if kind.token_types:
            made["mm_token_type_ids"] = (ids == IMAGE).int()
        seen = [one for one in batch if one["images"]]
        if family == "smolvlm" and seen:  # one row of images for each sample, blank ones are left out by the model
            images = [
                kind.pixels(1, torch.Generator().manual_seed(one["seed"]))["pixel_values"][0]
                if one["images"]
                else torch.zeros(1, 3, 28, 28)
                for one in batch
            ]
            made["pixel_values"] = torch.stack(images)
        elif seen:
            parts = [kind.pixels(1, torch.Generator().manual_seed(one["seed"])) for one in seen]
            made |= {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return made

    return collate
