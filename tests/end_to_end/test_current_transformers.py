"""Converted models in current transformers: the same ids, pixels and logits, and the way back.

Opt-in, since it makes a second virtual environment (some minutes, needs a package index):

    VISATB_TEST_CURRENT_TRANSFORMERS=1 python -m pytest tests/end_to_end/test_current_transformers.py

VISATB_CURRENT_TRANSFORMERS_PYTHON names the Python of an environment that has one already.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import PATCHES_PER_IMAGE, make_tiny_checkpoint

from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.data.preprocess import encode_segments
from llava.mm_utils import process_images
from llava.model.builder import load_pretrained_model
from llava.model.weights import read_state_dict
from scripts_visatb.checkpoints.convert_hf import from_hf, to_hf

pytestmark = [
    pytest.mark.current_transformers,
    pytest.mark.skipif(
        not os.environ.get("VISATB_TEST_CURRENT_TRANSFORMERS"), reason="set VISATB_TEST_CURRENT_TRANSFORMERS=1"
    ),
]
PACKAGES = ("transformers", "torch==2.13.0", "pillow", "sentencepiece", "protobuf")
KINDS = {  # changes of config.json and of tokenizer_config.json
    "legacy": ({}, {}),
    "not legacy, tower inside": ({"image_aspect_ratio": None}, {"legacy": False}),
    "tokens around images": ({"mm_use_im_start_end": True}, {}),
    "cls_patch, rope": (
        {"mm_vision_select_feature": "cls_patch", "rope_scaling": {"type": "linear", "factor": 2.0}},
        {},
    ),
}
TURNS = ("What colour is the square?", "It is red.", "And its shape?")


@pytest.fixture(scope="module")
def current_python(tmp_path_factory):
    """The Python of an environment with current transformers."""
    given = os.environ.get("VISATB_CURRENT_TRANSFORMERS_PYTHON")
    if given:
        return given
    folder = tmp_path_factory.mktemp("current_transformers")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *PACKAGES], check=True)
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module", params=[*KINDS])
def converted(request, tmp_path_factory, current_python):
    """A model in both layouts, and what current transformers made of it."""
    work = tmp_path_factory.mktemp("converted")
    kind = request.param
    source = make_tiny_checkpoint(work, tower_inside="inside" in kind) / "llava-tiny"
    for name, changes in zip(("config.json", "tokenizer_config.json"), KINDS[kind], strict=True):
        (source / name).write_text(json.dumps(json.loads((source / name).read_text()) | changes))
    if "around images" in kind:
        tokenizer, model, _, _ = load_pretrained_model(str(source), None, "llava", device="cpu")
        model.save_pretrained(source, safe_serialization=True)
        tokenizer.save_pretrained(source)
    to_hf(str(source), work / "hf")
    Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 50).convert("RGB").save(work / "view.png")
    question = [{"type": "image", "path": str(work / "view.png")}, {"type": "text", "text": TURNS[0]}]
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": [{"type": "text", "text": TURNS[1]}]},
        {"role": "user", "content": [{"type": "text", "text": TURNS[2]}]},
    ]
    (work / "request.json").write_text(json.dumps({"messages": messages}))
    script = Path(__file__).parents[1] / "current_transformers.py"
    words = [current_python, str(script), str(work / "hf"), str(work / "request.json"), str(work)]
    subprocess.run(words, check=True, cwd=work, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
    return work


def ours(work):
    """ids [T] with images as -200, pixels, logits [L, V] and generated ids of the LLaVA folder."""
    tokenizer, model, image_processor, _ = load_pretrained_model(
        str(work / "llava-tiny"), None, "llava-tiny", device="cpu", torch_dtype=torch.float32
    )
    image = f"<im_start>{'<image>'}<im_end>" if model.config.mm_use_im_start_end else "<image>"
    conversation = conv_templates["vicuna_v1"].copy()
    roles = conversation.roles
    texts = [f"{image}\n{TURNS[0]}", TURNS[1], TURNS[2], None]
    conversation.messages = [[roles[n % 2], text] for n, text in enumerate(texts)]
    ids = encode_segments(conversation.render(images=True), tokenizer)[0]
    pixels = process_images([Image.open(work / "view.png")], image_processor, model.config)
    with torch.no_grad():
        logits = model(ids[None], images=pixels).logits[0]
        new = model.generate(ids[None], images=pixels, max_new_tokens=12, do_sample=False)[0, len(ids) :]
    return ids, pixels, logits, new


def test_ids_pixels_logits_and_answers_are_the_same(converted):
    theirs = np.load(converted / "answers.npz")
    ids, pixels, logits, new = ours(converted)
    config = json.loads((converted / "hf" / "config.json").read_text())
    assert config["image_seq_length"] in (PATCHES_PER_IMAGE, PATCHES_PER_IMAGE + 1)
    expanded = [
        n
        for one in ids.tolist()
        for n in ([config["image_token_index"]] * config["image_seq_length"] if one == IMAGE_TOKEN_INDEX else [one])
    ]
    assert theirs["ids"][0].tolist() == expanded
    difference = float(np.abs(theirs["pixels"] - pixels.numpy()).max())
    assert difference < 1e-5, f"pixels differ by {difference}"
    difference = float(np.abs(theirs["logits"][0, :, : logits.shape[1]] - logits.numpy()).max())
    print(f"largest difference of logits: {difference:.2e}")
    assert difference < 1e-4, f"logits differ by {difference}"
    assert theirs["new"][0].tolist() == new.tolist()


@pytest.mark.parametrize("saved", ["saved", "in_memory"])
def test_what_current_transformers_saves_comes_back(converted, saved, tmp_path):
    folder = shutil.copytree(converted / saved, tmp_path / "theirs")
    for name in ("tokenizer.model", "tokenizer_config.json", "added_tokens.json"):
        shutil.copy(converted / "hf" / name, folder)
    from_hf(str(folder), tmp_path / "foreign", str(converted / "vision_tower"))
    source, foreign = read_state_dict(converted / "llava-tiny"), read_state_dict(tmp_path / "foreign")
    assert all(torch.equal(foreign[name], source[name]) for name in source if "inv_freq" not in name)
    assert load_pretrained_model(str(tmp_path / "foreign"), None, "model", device="cpu")
    shutil.copy(converted / "hf" / "visatb_original.json", folder)
    from_hf(str(folder), tmp_path / "back")
    for file in (converted / "llava-tiny").iterdir():
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes(), file.name
