"""Checkpoints and calling code of LLaVA since January 2024: `llava_llama`, `image_sizes`; LLaVA-1.6 is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from llava.model import LlavaConfig, LlavaLlamaForCausalLM
from llava.model.builder import load_pretrained_model
from llava.model.config_file import read_base_config
from visatb.errors import InputError

# What LLaVA writes since then beside the keys of before.
NEW_KEYS = {
    "model_type": "llava_llama",
    "transformers_version": "4.37.2",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rope_theta": 10000.0,
    "mm_patch_merge_type": "flat",
    "mm_resampler_type": None,
    "unfreeze_mm_vision_tower": False,
    "image_crop_resolution": None,
    "image_grid_pinpoints": None,
}
IDS = torch.tensor([[1, 20, -200, 30, 31], [0, 1, 20, -200, 31]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
GREEDY = {"max_new_tokens": 8, "do_sample": False}


@pytest.fixture
def later(tiny_checkpoint, tmp_path):
    """The whole checkpoint as LLaVA writes it since then."""
    folder = shutil.copytree(tiny_checkpoint / "llava-tiny", tmp_path / "later")
    edit(folder, **NEW_KEYS)
    return folder


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def load(folder):
    return load_pretrained_model(str(folder), None, "model", device="cpu")[1]


@pytest.fixture
def images():
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(3))


def test_a_llava_llama_checkpoint_is_the_llava_one(later, model, images):
    found = load(later)
    for call in (found, model):
        call.eval()
    assert torch.equal(
        found.generate(IDS, images=images, attention_mask=MASK, **GREEDY),
        model.generate(IDS, images=images, attention_mask=MASK, **GREEDY),
    )
    assert read_base_config(later).model_type == "llava"


def test_autoconfig_knows_both_names_and_we_write_the_first(later, tmp_path, caplog):
    config = AutoConfig.from_pretrained(later)
    assert type(config) is LlavaConfig and config.model_type == "llava"
    assert LlavaConfig.from_pretrained(later).model_type == "llava"
    assert type(AutoModelForCausalLM.from_pretrained(later)) is LlavaLlamaForCausalLM
    LlavaLlamaForCausalLM.from_pretrained(later).save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == "llava"
    assert "You are using a model of type" not in caplog.text


@pytest.mark.parametrize("sizes", [[(40, 30), (56, 56)], None])
def test_with_image_sizes_only_the_new_tokens_come_back(model, images, sizes):
    older = model.generate(IDS, images=images, attention_mask=MASK, **GREEDY)
    assert torch.equal(older[:, :5], IDS)
    for given in (images, list(images)):
        new = model.generate(IDS, images=given, attention_mask=MASK, image_sizes=sizes, **GREEDY)
        assert torch.equal(new, older[:, 5:])
    text = torch.tensor([[1, 20, 30]])
    new = model.generate(input_ids=text, image_sizes=sizes, **GREEDY)
    assert torch.equal(new, model.generate(text, **GREEDY)[:, 3:])


def test_with_image_sizes_nothing_sees_the_prompt(model, images):
    """A penalty on repetition would look up the id -200 of an image."""
    seen = []
    stop = [lambda ids, scores: seen.append(ids.shape[1]) or ids.shape[1] >= 3]
    streamed = []

    class Streamer:
        def put(self, value):
            streamed.append(value.numel())

        def end(self):
            streamed.append("end")

    call = {"images": images[:1], "image_sizes": [(56, 56)], "stopping_criteria": stop, "repetition_penalty": 1.2}
    new = model.generate(IDS[:1], streamer=Streamer(), **call, **GREEDY)
    assert new.shape == (1, 3) and seen == [1, 2, 3] and streamed == [0, 1, 1, 1, "end"]
    beams = model.generate(
        IDS[:1], images=images[:1], image_sizes=None, generation_config=GenerationConfig(num_beams=3, max_new_tokens=4)
    )
    assert beams.shape[1] <= 4 and int(beams.min()) >= 0
    with pytest.raises(ValueError, match="inputs_embeds"):
        model.generate(IDS[:1], inputs_embeds=torch.zeros(1, 5, 64), image_sizes=None)


def test_forward_takes_image_sizes(model, images):
    with torch.no_grad():
        found = model(IDS, MASK, images=images, image_sizes=[(1, 1), (2, 2)]).logits
        assert torch.equal(found, model(IDS, MASK, images=images).logits)


@pytest.mark.parametrize(
    "key, value",
    [
        ("image_aspect_ratio", "anyres"),
        ("image_aspect_ratio", "anyres_max_9"),
        ("mm_patch_merge_type", "spatial_unpad"),
        ("image_grid_pinpoints", [[336, 672], [672, 336]]),
        ("mm_resampler_type", "spatial_pool"),
        ("s2", True),
    ],
)
def test_a_llava_1_6_folder_is_refused_as_that(later, key, value):
    edit(later, **{key: value})
    for read in (load, read_base_config):
        with pytest.raises(InputError, match=rf"config\.json: {key} is .*: a LLaVA-1\.6") as caught:
            read(later)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["llava_mistral", "llava_next", "llava_qwen", "mpt"])
def test_a_llava_over_another_model_is_named(later, kind):
    edit(later, model_type=kind)
    with pytest.raises(InputError, match=f"model_type must be one of llava, llava_llama, llama, got '{kind}'"):
        load(later)


def test_the_weights_of_a_llava_1_6_are_refused_as_that(later):
    weights = load_file(later / "model.safetensors") | {"model.image_newline": torch.zeros(64)}
    save_file(weights, later / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model\.image_newline: a LLaVA-1\.6"):
        load(later)
