"""Models that can be asked: the tiny ones of tiny_models.py with a tokenizer, a processor and a chat template.

`make_folder` writes a model folder as a user has it. It serves the families whose processor can be made without
torchvision; for the others `parts` puts tokenizer and image processor together, as far as questions need it. The
tokenizer has one token for each printable ASCII character, so that prompts and answers can be read.
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from tests.hf.tiny_models import IMAGE, VIDEO, VISION_END, VISION_START, build, text_settings

SPECIAL = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "<image>": IMAGE, "<vision>": VISION_START}
SPECIAL |= {"</vision>": VISION_END, "<video>": VIDEO, "<user>": 124, "<assistant>": 125}
SPECIAL |= {"<fake_token_around_image>": 126, "<global-img>": 127}
TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '>' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}IMAGE{% endif %}{% endfor %}{{ '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
FOLDERS = ("llava", "idefics3")
PARTS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl")


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """One id for each printable character, and those of SPECIAL."""
    vocabulary = SPECIAL | {chr(32 + n): 4 + n for n in range(95)}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    characters.decoder = decoders.Fuse()
    own = ("<s>", "</s>", "<pad>", "<unk>")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=characters,
        **dict(zip(("bos_token", "eos_token", "pad_token", "unk_token"), own, strict=True)),
        additional_special_tokens=[name for name in SPECIAL if name not in own],
    )


def make_folder(folder: Path, family: str = "llava", seed: int = 0) -> Path:
    """A folder that `from_pretrained` of model and processor reads."""
    template = TEMPLATE.replace("IMAGE", "<image>")
    if family == "llava":
        images = transformers.LlavaImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
        processor = transformers.LlavaProcessor(
            images,
            tokenizer(),
            patch_size=7,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=template,
        )
        model = build(family, seed)
    else:
        edge = {"longest_edge": 28}
        images = transformers.Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
        processor = transformers.Idefics3Processor(images, tokenizer(), image_seq_len=4, chat_template=template)
        model = _idefics3(seed)
    _louder(model, seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def parts(family: str, seed: int = 0) -> tuple[torch.nn.Module, "PartsProcessor"]:
    """A model and its processor put together from parts."""
    if family == "internvl":
        size = {"height": 28, "width": 28}
        images = transformers.GotOcr2ImageProcessorPil(size=size, crop_to_patches=False)
        processor = PartsProcessor(images, "<image>", lambda _: 4)
    else:
        images = transformers.Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=84 * 84, patch_size=14)
        processor = PartsProcessor(images, "<vision><image></vision>", lambda grid: int(grid.prod()) // 4)
    return _louder(build(family, seed), seed), processor


class PartsProcessor:
    """What an engine knows of a processor, made of a tokenizer and an image processor."""

    image_token = "<image>"

    def __init__(self, image_processor: Any, shown: str, places: Any):
        """`shown` is an image in the template; `places` gives its number of tokens from its row of image_grid_thw."""
        self.image_processor, self.tokenizer, self._places = image_processor, tokenizer(), places
        self.chat_template = TEMPLATE.replace("IMAGE", shown)

    def apply_chat_template(self, messages: list, **settings: Any) -> str:
        """A conversation as text."""
        return self.tokenizer.apply_chat_template(messages, **settings)

    def __call__(self, text: list[str], images: list | None, return_tensors: str, **settings: Any) -> Any:
        """The batch."""
        pictures = [image for row in images or () for image in row]
        seen = dict(self.image_processor(pictures, return_tensors=return_tensors)) if pictures else {}
        seen.pop("num_patches", None)
        grids = iter(seen.get("image_grid_thw", [None] * len(pictures)))
        texts = []
        for row in text:
            pieces = row.split("<image>")
            joints = ["<image>" * self._places(next(grids)) for _ in pieces[1:]] + [""]
            texts.append("".join(piece + joint for piece, joint in zip(pieces, joints, strict=True)))
        made = dict(self.tokenizer(texts, return_tensors=return_tensors, **settings))
        made.pop("token_type_ids", None)
        if "image_grid_thw" in seen:
            made["mm_token_type_ids"] = (made["input_ids"] == IMAGE).int()
        return transformers.BatchFeature(made | seen)


def make_questions(folder: Path, count: int = 12) -> Path:
    """A question file of records of unequal length, every third without an image; images in `images`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for n in range(count):
        words = "Which of these colours is the brightest one here"[: 6 + 7 * n % 40]
        record = {"id": f"q{n}", "conversations": [{"from": "human", "value": f"{words} {n}?"}, _TRUTH]}
        if n % 3:
            shape = (40 + 5 * n, 30 + 11 * n % 50)
            Image.effect_mandelbrot(shape, (-2, -1, 1, 1), 20 + n).convert("RGB").save(folder / f"images/{n}.png")
            record["image"] = f"{n}.png"
            record["conversations"][0]["value"] = f"<image>\n{words} {n}?"
        records.append(record)
    path = folder / "questions.json"
    path.write_text(json.dumps(records))
    return path


_TRUTH = {"from": "gpt", "value": "x"}


def _louder(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The model with larger weights, so that answers differ with the question and the image."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embed" not in name:
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.15)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    return model


def _idefics3(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 7,
    }
    config = transformers.Idefics3Config(
        text_config=text_settings(model_type="llama"), vision_config=vision, image_token_id=IMAGE, scale_factor=2
    )
    return transformers.Idefics3ForConditionalGeneration(config)
