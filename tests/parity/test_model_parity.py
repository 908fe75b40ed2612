"""The model's features, merged inputs, logits, losses, gradients and generations equal the recorded reference."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llava.data.images import load_image
from llava.eval.run_llava import eval_model
from llava.mm_utils import KeywordsStoppingCriteria, process_images
from llava.model import LlavaLlamaForCausalLM
from llava.model.builder import load_pretrained_model
from llava.model.weights import read_tensors
from transformers_patch import build_weighter

pytestmark = pytest.mark.golden


class Recorded:
    """forward.npz as tensors and forward.json."""

    def __init__(self, golden):
        with np.load(golden / "forward.npz") as arrays:
            self.tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
        self.facts = json.loads((golden / "forward.json").read_text())

    def __getitem__(self, key):
        return self.tensors[key]

    def batch(self, *keys):
        return {key: self.tensors[key] for key in ("input_ids", "attention_mask", *keys)}


@pytest.fixture(scope="module")
def recorded(golden):
    return Recorded(golden)


@pytest.fixture
def loaded(golden, monkeypatch):
    """tokenizer, model, image_processor; the golden config names the vision tower relative to its folder."""
    monkeypatch.chdir(golden)
    tokenizer, model, image_processor, context = load_pretrained_model("checkpoint", None, "llava-tiny", device="cpu")
    assert context == 2048 and model.dtype == torch.float32 and not model.training
    return tokenizer, model, image_processor


@pytest.fixture
def model(loaded):
    return loaded[1]


def close(found, expected, atol=1e-4):
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def test_safetensors_and_bin_checkpoints_load_the_same_weights(golden, model, monkeypatch):
    monkeypatch.chdir(golden)
    for name in ("llava-tiny", "a-folder-with-another-name"):
        other = load_pretrained_model("checkpoint_bin", None, name, device="cpu")[1]
        assert model.state_dict().keys() == other.state_dict().keys() and len(model.state_dict()) == 82
        assert all(
            torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
        )
    trained = LlavaLlamaForCausalLM.from_pretrained("checkpoint_bin")
    assert torch.equal(trained.model.mm_projector[2].weight, model.model.mm_projector[2].weight)


def test_the_projector_file_holds_the_checkpoints_projector(golden, model):
    projector = read_tensors(golden / "mm_projector.bin")
    assert len(projector) == 4
    assert all(torch.equal(model.state_dict()[key], value) for key, value in projector.items())


def test_eval_model_gives_the_recorded_texts(golden, monkeypatch, capsys):
    """As LLaVA's users call it, file by file: loading, pixels, prompt, generation, text."""
    monkeypatch.chdir(golden)
    for case in json.loads((golden / "generate.json").read_text())["generations"]:
        args = {"model_path": "checkpoint", "model_base": None, "model_name": "llava-tiny", "sep": ","}
        args |= {"query": case["question"], "conv_mode": case["conv_mode"], "image_file": case["image"]}
        args |= {"temperature": 0, "top_p": None, "num_beams": 1, "max_new_tokens": 16}
        assert eval_model(type("Args", (), args)()) == case["text_stripped"]
        assert capsys.readouterr().out.strip() == case["text_stripped"]


def test_checkpoint_names_are_those_of_the_reference(golden, model):
    runs = json.loads((golden / "train_trajectory.json").read_text())
    saved = _find_key(runs, "saved_keys")
    whole = next(keys for keys in saved if len(keys) == 82)
    assert sorted(model.state_dict()) == sorted(whole)


def test_features_and_merged_inputs_equal_the_recorded_ones(model, recorded):
    with torch.no_grad():
        close(model.get_vision_tower()(recorded["images"]), recorded["vision_tower_features"])
        close(model.encode_images(recorded["images"]), recorded["image_features"])
        ids, positions, mask, cache, embeds, labels = model.prepare_inputs_labels_for_multimodal(
            recorded["input_ids"], None, recorded["attention_mask"], None, recorded["labels"], recorded["images"]
        )
    assert ids is None and positions is None and cache is None
    close(embeds, recorded["merged_inputs_embeds"])
    assert torch.equal(mask, recorded["merged_attention_mask"]) and mask.dtype == recorded["attention_mask"].dtype
    assert torch.equal(labels, recorded["merged_labels"])


@pytest.mark.parametrize("variant", ["", "trunc_", "left_", "nolimit_"])
def test_losses_of_every_variant_equal_the_recorded_ones(model, recorded, variant):
    for key, value in recorded.facts.get(f"{variant}config_change", {}).items():
        setattr(model.config, key, value)
    with torch.no_grad():
        _, _, mask, _, _, labels = model.prepare_inputs_labels_for_multimodal(
            recorded["input_ids"], None, recorded["attention_mask"], None, recorded["labels"], recorded["images"]
        )
        output = model(**recorded.batch("labels", "images"))
    assert torch.equal(mask, recorded[f"{variant}merged_attention_mask"])
    assert torch.equal(labels, recorded[f"{variant}merged_labels"])
    token_losses = F.cross_entropy(output.logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    close(token_losses, recorded[f"{variant}token_losses"])
    if not variant:
        close(output.logits[mask], recorded["logits"][mask])
    for name in ("EW", "W"):
        weighter = build_weighter("EW", 3, recorded.facts[f"weights_{name}"])
        loss = model(**recorded.batch("labels", "images", "task_ids"), weighter=weighter).loss
        assert float(loss.detach()) == pytest.approx(recorded.facts[f"{variant}loss_{name}"], abs=2e-5)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, parameters)
        total = torch.stack([gradient.norm() for gradient in gradients]).norm()
        assert float(total) == pytest.approx(recorded.facts[f"{variant}grad_norm_total_{name}"], rel=1e-4)


@pytest.mark.parametrize("name", ["EW", "W"])
def test_gradients_equal_the_recorded_ones(model, recorded, name):
    model.train()
    model.requires_grad_(True)
    model.get_vision_tower().requires_grad_(False)
    weighter = build_weighter("EW", 3, recorded.facts[f"weights_{name}"])
    output = model(**recorded.batch("labels", "images", "task_ids"), weighter=weighter)
    output.loss.backward()
    assert output.logits is None
    norms = recorded.facts[f"grad_norm_{name}"]
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert sorted(trained) == sorted(norms)
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert frozen == set(recorded.facts["frozen_parameters"])
    for key, parameter in trained.items():
        assert float(parameter.grad.norm()) == pytest.approx(norms[key], rel=1e-4)
        if f"grad_{name}::{key}" in recorded.tensors:
            close(parameter.grad, recorded[f"grad_{name}::{key}"], atol=1e-5)


def test_two_images_in_a_row_and_rows_without_images_equal_recordings(model, recorded):
    with torch.no_grad():
        ids, images = recorded["two_images_input_ids"], recorded["images"][[0, 2]]
        close(model(ids, images=images).logits, recorded["two_images_logits"])
        given = (ids, None, None, None, recorded["two_images_labels"], images)
        labels = model.prepare_inputs_labels_for_multimodal(*given)[-1]
        two = model(ids, labels=recorded["two_images_labels"], images=images)
        assert float(two.loss) == pytest.approx(recorded.facts["two_images_loss_EW"], abs=2e-5)
        losses = F.cross_entropy(two.logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
        close(losses, recorded["two_images_token_losses"])
        rows = recorded.facts["text_only_rows"]
        length = recorded["no_images_logits"].shape[1]
        ids, mask = (recorded[key][rows][:, :length] for key in ("input_ids", "attention_mask"))
        text = model(ids, attention_mask=mask, labels=recorded["labels"][rows][:, :length])
        close(text.logits[mask], recorded["no_images_logits"][mask])
        assert float(text.loss) == pytest.approx(recorded.facts["no_images_loss_EW"], abs=2e-5)


def test_generations_equal_the_recorded_ones(golden, loaded):
    tokenizer, model, image_processor = loaded
    for case in json.loads((golden / "generate.json").read_text())["generations"]:
        ids = torch.tensor([case["input_ids"]])
        settings = {
            "images": process_images([load_image(golden / case["image"])], image_processor, model.config),
            "do_sample": False,
            "max_new_tokens": 16,
        }
        output = model.generate(ids, **settings)[0]
        assert output.tolist() == case["output_ids"]
        for key, skip in (("text", True), ("text_with_special", False)):
            assert tokenizer.decode(output[ids.shape[1] :], skip_special_tokens=skip) == case[key]
        assert model.generate(ids, **settings, use_cache=False)[0].tolist() == case["output_ids"]

        def new_ids(**changes):
            return model.generate(ids, **(settings | changes))[0, ids.shape[1] :].tolist()  # noqa: B023

        stop = KeywordsStoppingCriteria([case["keyword_stop"]["keyword"]], tokenizer, ids)
        assert new_ids(stopping_criteria=[stop]) == case["keyword_stop"]["new_ids"]
        early = case["early_stop"]
        assert new_ids(eos_token_id=early["eos_token_id"]) == early["new_ids"]
        assert new_ids(num_beams=3, max_new_tokens=8) == case["beam3_new_ids"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_gives_the_recorded_generations(golden, loaded, side):
    tokenizer, model, image_processor = loaded
    cases = json.loads((golden / "generate.json").read_text())["generations"]
    prompts = [torch.tensor(case["input_ids"]) for case in cases]
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        start = longest - len(prompt) if side == "left" else 0
        ids[row, start : start + len(prompt)] = prompt
        mask[row, start : start + len(prompt)] = 1
    images = process_images([load_image(golden / case["image"]) for case in cases], image_processor, model.config)
    found = model.generate(ids, attention_mask=mask, images=images, do_sample=False, max_new_tokens=16)[:, longest:]
    for row, case in zip(found.tolist(), cases, strict=True):
        assert row[: len(case["new_ids"])] == case["new_ids"]


def _find_key(value, key):
    if isinstance(value, dict):
        return [found for name, inner in value.items() for found in ([inner] if name == key else _find_key(inner, key))]
    return [found for inner in value for found in _find_key(inner, key)] if isinstance(value, list) else []
