"""A tiny LLaVA model in Hugging Face layout with its processor, and an annotation file of two tasks, on disk."""

import json
from pathlib import Path

import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from tests.hf.chat_models import TEMPLATES, bpe_tokenizer

SIDE, PATCH = 28, 7
IMAGE_TOKENS = (SIDE // PATCH) ** 2
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 30)}
BENCHMARK = """
name: tiny
data_folder: {folder}
image_folder: {folder}/images
tasks:
  - {{name: colour, metric: exact_match, files: {{train: train.json, val: train.json, test: train.json}}}}
  - {{name: words, weight: 1.0, files: {{train: train.json}}}}
"""


def processor() -> LlavaProcessor:
    """The processor of the tiny model."""
    tokenizer = bpe_tokenizer(SPECIAL_TOKENS, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    template = (TEMPLATES / "internvl3.jinja").read_text().replace("<IMG_CONTEXT>", "<image>")
    return LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def save_model(folder: Path, seed: int = 0) -> Path:
    """Write model and processor; returns the folder."""
    made = processor()
    tokenizer = made.tokenizer
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(seed)
    config = LlavaConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 512,
            **common,
            **ids,
        },
        vision_config={"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": PATCH, **common},
        image_token_index=made.image_token_id,
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        **ids,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def save_data(folder: Path, count: int = 24) -> Path:
    """Write images, train.json and tiny.yaml: every third record is text alone, every fifth has two turns."""
    (folder / "images").mkdir(parents=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (40, 30), colour).save(folder / "images" / f"{name}.png")
    records = []
    for n in range(count):
        colour = list(COLOURS)[n % 3]
        turns = (
            [("human", "<image>\nWhat is it?"), ("gpt", colour)]
            if n % 3
            else [("human", "Say dogs"), ("gpt", "two dogs")]
        )
        turns += [("human", "the square?"), ("gpt", "in the picture")] if n % 5 == 0 else []
        record = {"id": f"r{n}", "task": "colour" if n % 3 else "words"} | ({"image": f"{colour}.png"} if n % 3 else {})
        records.append(record | {"conversations": [{"from": role, "value": text} for role, text in turns]})
    (folder / "train.json").write_text(json.dumps(records))
    (folder / "tiny.yaml").write_text(BENCHMARK.format(folder=folder))
    return folder
