"""LLaVA's layout and Hugging Face's: to and fro is the same bytes, and what has no counterpart is refused."""

import hashlib
import json
import shutil

import jinja2.sandbox
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_checkpoint
from tokenizers import Tokenizer
from transformers import LlamaTokenizer

from llava.conversation import conv_templates
from llava.model.builder import load_pretrained_model
from llava.model.weights import read_state_dict
from scripts_visatb.checkpoints import convert_hf, hf_names
from scripts_visatb.checkpoints.convert_hf import from_hf, to_hf
from scripts_visatb.checkpoints.hf_tokens import chat_template
from scripts_visatb.checkpoints.original import SIDECAR

TOWER = "model.vision_tower.vision_tower."


def digests(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def divided(folder, parts):
    """Split the weights of a folder into shards."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    table = {}
    for n in range(parts):
        file = f"model-{n + 1:05d}-of-{parts:05d}.safetensors"
        save_file({name: weights[name] for name in names[n::parts]}, folder / file, metadata={"format": "pt"})
        table |= dict.fromkeys(names[n::parts], file)
    content = {"metadata": {"total_size": 7, "ours": "kept"}, "weight_map": table}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("kind", ["one file", "shards", "bfloat16", "no rotary frequencies", "added token"])
def test_to_and_fro_is_the_same_bytes(tmp_path, inside, kind, edit):
    folder = make_tiny_checkpoint(tmp_path, tower_inside=inside) / "llava-tiny"
    weights = load_file(folder / "model.safetensors")
    if kind == "bfloat16":
        weights = {name: tensor.bfloat16() for name, tensor in weights.items()}
        edit(folder / "config.json", torch_dtype="bfloat16")
    if kind == "no rotary frequencies":
        weights = {name: tensor for name, tensor in weights.items() if "inv_freq" not in name}
    if kind == "added token":
        tokenizer = LlamaTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        tokenizer.save_pretrained(folder)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            weights[name] = torch.cat([weights[name], torch.ones(1, 64)])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if kind == "shards":
        divided(folder, 3)
    before = digests(folder)
    to_hf(str(folder), tmp_path / "hf", max_shard_size="50KB")
    assert digests(folder) == before
    from_hf(str(tmp_path / "hf"), tmp_path / "back")
    assert digests(tmp_path / "back") == before


@pytest.mark.golden
@pytest.mark.parametrize("name", ["checkpoint", "checkpoint_bin"])
def test_the_recorded_checkpoint_comes_back(golden, tmp_path, monkeypatch, name):
    monkeypatch.chdir(golden)
    to_hf(name, tmp_path / "hf")
    from_hf(str(tmp_path / "hf"), tmp_path / "back")
    expected = digests(golden / "checkpoint")
    found = digests(tmp_path / "back")
    if name == "checkpoint_bin":
        weights, source = read_state_dict(tmp_path / "back"), read_state_dict(name)
        assert weights.keys() == source.keys() and all(torch.equal(weights[key], source[key]) for key in source)
        del found["model.safetensors"], expected["model.safetensors"]
    assert found == expected


@pytest.fixture
def hf(whole, tmp_path):
    """The tiny model in Hugging Face's layout."""
    to_hf(str(whole), tmp_path / "hf")
    return tmp_path / "hf"


def test_names_and_settings_are_those_of_the_hub(hf, whole, tiny_checkpoint):
    weights, source = read_state_dict(hf), read_state_dict(whole)
    pairs = {
        "language_model.model.layers.1.mlp.up_proj.weight": source["model.layers.1.mlp.up_proj.weight"],
        "multi_modal_projector.linear_1.bias": source["model.mm_projector.0.bias"],
        "multi_modal_projector.linear_2.weight": source["model.mm_projector.2.weight"],
    }
    for name, tensor in read_state_dict(tiny_checkpoint / "vision_tower").items():
        pairs[f"vision_tower.{name}"] = tensor
    assert all(torch.equal(weights[name], tensor) for name, tensor in pairs.items())
    assert not any("inv_freq" in name for name in weights)
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        assert weights[name].shape == (448, 64)
        torch.testing.assert_close(weights[name][390:], weights[name][:390].mean(0).expand(58, -1))
    config = json.loads((hf / "config.json").read_text())
    expected = {
        "architectures": ["LlavaForConditionalGeneration"],
        "image_seq_length": 16,
        "image_token_index": 390,
        "model_type": "llava",
        "pad_token_id": 391,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }
    assert expected.items() <= config.items()
    assert config["text_config"]["vocab_size"] == 448 and config["vision_config"]["image_size"] == 56
    assert json.loads((hf / "added_tokens.json").read_text()) == {"<image>": 390, "<pad>": 391}
    assert json.loads((hf / "preprocessor_config.json").read_text())["do_pad"] is True
    assert json.loads((hf / "processor_config.json").read_text())["patch_size"] == 14
    assert json.loads((hf / "generation_config.json").read_text())["pad_token_id"] == 391


@pytest.mark.parametrize("name", ["vicuna_v1", "llava_v1"])
@pytest.mark.parametrize("legacy", [True, False])
def test_the_chat_template_is_our_own_prompt(legacy, name):
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(chat_template(conv_templates[name], False, legacy))
    image, text = {"type": "image"}, lambda words: {"type": "text", "text": words}
    messages = [
        {"role": "user", "content": [text('What\'s "this"?'), image]},
        {"role": "assistant", "content": "A {{ ring }}."},
        {"role": "user", "content": "Sure?\nReally?"},
        {"role": "assistant", "content": [text("Yes.")]},
    ]
    conversation = conv_templates[name].copy()
    said = ['<image>\nWhat\'s "this"?', "A {{ ring }}.", "Sure?\nReally?", "Yes."]
    conversation.messages = [[conversation.roles[n % 2], words] for n, words in enumerate(said)]
    rendered = template.render(messages=messages, bos_token="<s>")
    if not legacy:  # the spaces that a tokenizer of this kind does not put there by itself
        rendered = rendered.replace("<s> ", "<s>").replace("<image> ", "<image>")
    assert rendered == "<s>" + conversation.get_prompt()
    user, assistant = conversation.roles
    conversation.messages = [*conversation.messages[:2], [user, "More?"], [assistant, None]]
    messages = [*messages[:2], {"role": "user", "content": "More?"}]
    rendered = template.render(messages=messages, bos_token="<s>", add_generation_prompt=True)
    assert rendered.replace("<s> ", "<s>").replace("<image> ", "<image>") == "<s>" + conversation.get_prompt()
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert template.render(messages=system, bos_token="") == "Be brief. USER: Hi "


def test_the_fast_tokenizer_gives_llamas_ids(hf, whole):
    slow, fast = LlamaTokenizer.from_pretrained(whole), Tokenizer.from_file(str(hf / "tokenizer.json"))
    letters = "a chat between red square  \n\tUSER: é€😀 0.25 [ ]<>"
    draw = torch.Generator().manual_seed(3)
    for _ in range(300):
        picked = torch.randint(len(letters), (24,), generator=draw).tolist()
        text = "".join(letters[n] for n in picked)
        assert fast.encode(text).ids == slow(text).input_ids, repr(text)
    assert fast.encode("Hi</s>USER: x").ids == slow("Hi</s>USER: x").input_ids
    assert fast.encode("<image><pad>", add_special_tokens=False).ids == [390, 391]


def foreign(hf, later=False):
    """Make a converted folder one that we know nothing of, as on the hub or as later transformers save it."""
    (hf / SIDECAR).unlink()
    if later:
        weights = load_file(hf / "model.safetensors")
        renamed = {
            name.replace("language_model.lm_head.", "lm_head.")
            .replace("language_model.model.", "model.language_model.")
            .replace("vision_tower.vision_model.", "model.vision_tower.")
            .replace("multi_modal_projector.", "model.multi_modal_projector."): tensor
            for name, tensor in weights.items()
        }
        save_file(renamed, hf / "model.safetensors")
    return hf


@pytest.mark.parametrize("version, written", [("v1", True), ("llava_v1", True), ("llava_llama_2", False)])
def test_the_template_of_the_training_goes_there_and_back(whole, tmp_path, edit, capsys, version, written):
    edit(whole / "config.json", conversation_version=version, model_type="llava_llama")
    to_hf(str(whole), tmp_path / "hf")
    template = tmp_path / "hf" / "chat_template.jinja"
    assert template.is_file() == written and ("no chat template" in capsys.readouterr().out) != written
    assert not written or conv_templates[version].system in template.read_text()
    from_hf(str(tmp_path / "hf"), tmp_path / "back")
    assert digests(tmp_path / "back") == digests(whole)
    (tmp_path / "hf" / SIDECAR).unlink()  # trained over there
    from_hf(str(tmp_path / "hf"), tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert (config["conversation_version"], config["model_type"]) == (version, "llava")


@pytest.mark.parametrize("later", [False, True])
def test_a_foreign_checkpoint_becomes_a_llava_model(hf, whole, tiny_checkpoint, tmp_path, later):
    from_hf(str(foreign(hf, later)), tmp_path / "ours", str(tiny_checkpoint / "vision_tower"))
    found, source = read_state_dict(tmp_path / "ours"), read_state_dict(whole)
    assert all(torch.equal(found[name], source[name]) for name in source if "inv_freq" not in name)
    assert sum(name.startswith(TOWER) for name in found) == 55
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    original = json.loads((whole / "config.json").read_text())
    assert {key: original.get(key) for key in config if key != "transformers_version"} == {
        key: value for key, value in config.items() if key != "transformers_version"
    }
    tokenizer, model, _, _ = load_pretrained_model(str(tmp_path / "ours"), None, "ours", device="cpu")
    expected, reference, _, _ = load_pretrained_model(str(whole), None, "whole", device="cpu")
    images, ids = torch.ones(1, 3, 56, 56), torch.tensor([[1, -200, 20]])
    assert torch.equal(model(ids, images=images).logits, reference(ids, images=images).logits)
    assert len(tokenizer) == 390
    for text in ("What colour?", "a</s>USER: b"):
        assert tokenizer(text).input_ids == expected(text).input_ids


def test_weights_trained_over_there_come_back_in_the_old_frame(hf, whole, tmp_path):
    weights = load_file(hf / "model.safetensors")
    for name in ("language_model.model.norm.weight", "vision_tower.vision_model.embeddings.class_embedding"):
        weights[name] += 1
    save_file(weights, hf / "model.safetensors")
    from_hf(str(hf), tmp_path / "back")
    found, source = read_state_dict(tmp_path / "back"), read_state_dict(whole)
    assert torch.equal(found["model.norm.weight"], source["model.norm.weight"] + 1)
    assert torch.equal(
        found[f"{TOWER}vision_model.embeddings.class_embedding"],
        weights["vision_tower.vision_model.embeddings.class_embedding"],
    ), "a tower that was trained over there must not be replaced by the old one"
    assert (tmp_path / "back" / "config.json").read_bytes() == (whole / "config.json").read_bytes()


def test_another_vision_tower_is_written_into_the_config_and_compared(hf, tiny_checkpoint, tmp_path, edit, refused):
    tower = shutil.copytree(tiny_checkpoint / "vision_tower", tmp_path / "tower")
    words = ["--from-hf", "--model-path", hf, "--vision-tower", tower, "--save-model-path"]
    convert_hf.main([str(word) for word in [*words, tmp_path / "moved"]])
    assert json.loads((tmp_path / "moved" / "config.json").read_text())["mm_vision_tower"] == str(tower)
    edit(tower / "config.json", hidden_act="gelu")
    assert "hidden_act" in refused(convert_hf.main, *words, tmp_path / "other")
    foreign(hf)
    assert "hidden_act" in refused(convert_hf.main, *words, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_tower_that_cannot_be_read_is_said(hf, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from_hf(str(foreign(hf)), tmp_path / "ours", str(tmp_path / "no_tower"))
    assert "was not checked" in capsys.readouterr().out


def weights_changed(**changes):
    def change(folder):
        weights = load_file(folder / "model.safetensors")
        for name, tensor in changes.items():
            name = name.replace("__", ".")
            weights[name] = tensor
            if tensor is None:
                del weights[name]
        save_file(weights, folder / "model.safetensors")

    return change


def part_changed(part, **changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (config[part] if part else config).update(changes)
        (folder / "config.json").write_text(json.dumps(config))

    return change


FOREIGN = {
    "llava next": (part_changed(None, model_type="llava_next"), "not a LlavaForConditionalGeneration"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "not a LlavaForConditionalGeneration"),
    "no text config": (part_changed(None, text_config=3), "not a LlavaForConditionalGeneration"),
    "mistral": (part_changed("text_config", model_type="mistral"), "text_config.model_type"),
    "siglip": (part_changed("vision_config", model_type="siglip_vision_model"), "vision_config.model_type"),
    "two layers": (part_changed(None, vision_feature_layer=[-2, -5]), "vision_feature_layer"),
    "no bias": (part_changed(None, multimodal_projector_bias=False), "multimodal_projector_bias"),
    "quantised": (part_changed(None, quantization_config={"bits": 4}), "quantization_config"),
    "rope theta": (part_changed("text_config", rope_parameters={"rope_theta": 5e5}), "rope_theta"),
    "yarn": (part_changed("text_config", rope_scaling={"rope_type": "yarn", "factor": 2.0}), "yarn"),
    "attention bias": (part_changed("text_config", attention_bias=True), "attention_bias"),
    "text": (part_changed("text_config", hidden_size="64"), "hidden_size"),
    "tower of text": (part_changed("vision_config", hidden_size="32"), "hidden_size"),
    "tower that sees otherwise": (part_changed("vision_config", hidden_act="boom"), "boom"),
    "image token": (part_changed(None, image_token_index=17), "image_token_index"),
    "no tokenizer.model": (lambda f: (f / "tokenizer.model").unlink(), "has no tokenizer.model"),
    "damaged tokenizer": (lambda f: (f / "tokenizer.model").write_bytes(b"x"), "cannot be read"),
    "tokens behind": (
        lambda f: (f / "added_tokens.json").write_text('{"<image>": 390, "<pad>": 391, "<box>": 392}'),
        "tokens behind",
    ),
    "added tokens": (lambda f: (f / "added_tokens.json").write_text('{"a": "b"}'), "added_tokens.json"),
    "missing tensor": (weights_changed(language_model__model__norm__weight=None), "missing model.norm.weight"),
    "unknown tensor": (weights_changed(image_newline=torch.zeros(3)), "image_newline is not part of"),
    "twice": (weights_changed(lm_head__weight=torch.zeros(448, 64)), "two names"),
    "misshapen": (weights_changed(multi_modal_projector__linear_1__bias=torch.zeros(3)), "misshapen"),
    "truncated": (lambda f: (f / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}"), "damaged safetensors"),
}


@pytest.mark.parametrize("fault", FOREIGN)
def test_foreign_checkpoints_that_have_no_counterpart_are_refused(hf, tiny_checkpoint, refused, tmp_path, fault):
    change, said = FOREIGN[fault]
    foreign(hf)
    change(hf)
    words = ["--from-hf", "--model-path", hf, "--vision-tower", tiny_checkpoint / "vision_tower"]
    assert said in refused(convert_hf.main, *words, "--save-model-path", tmp_path / "new" / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "whole"]


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"texts": []},
        {"texts": {"config.json": "{}", "../../evil": ""}},
        {"files": {"lm_head.weight": "../evil.safetensors"}},
        {"rows": 0},
        {"rows": 10**9},
        {"texts": {"config.json": "[1]"}},
        {"texts": {"config.json": "{"}},
        {"texts": {"config.json": "{}", "model.safetensors.index.json": "{"}},
        {"texts": {"config.json": "{}", "tokenizer_config.json": "[1]"}},
        {"texts": {"config.json": "{}"}},
        {"counted": [{"names": ["model.norm.weight"], "dtype": "torch.float32", "shape": [64], "values": [0.0] * 64}]},
        {"counted": [3]},
    ],
)
def test_a_damaged_sidecar_is_refused(hf, refused, tmp_path, edit, changes):
    edit(hf / SIDECAR, **changes)
    refused(convert_hf.main, "--from-hf", "--model-path", hf, "--save-model-path", tmp_path / "new" / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "whole"]


def test_the_way_back_needs_the_tokenizer_with_a_sidecar_too(hf, refused, tmp_path):
    (hf / "tokenizer.model").unlink()
    words = ["--from-hf", "--model-path", hf, "--save-model-path", tmp_path / "new" / "target"]
    assert "has no tokenizer.model" in refused(convert_hf.main, *words)
    assert not (tmp_path / "new").exists()


def test_models_without_counterpart_there_are_refused(whole, lora, stage1, tiny_checkpoint, refused, tmp_path, edit):
    target = tmp_path / "target"
    for folder in (lora, stage1):
        assert "Merge it first" in refused(
            convert_hf.main, "--to-hf", "--model-path", folder, "--save-model-path", target
        )
    words = ["--to-hf", "--model-path", whole, "--save-model-path", target]
    assert "Llama without vision" in refused(
        convert_hf.main, "--to-hf", "--model-path", tiny_checkpoint / "llama", "--save-model-path", target
    )
    edit(whole / "tokenizer_config.json", legacy=False)
    edit(whole / "config.json", mm_use_im_start_end=True)
    assert "not legacy" in refused(convert_hf.main, *words)
    for kind in ("linear", "identity", "mlp3x_gelu"):
        edit(whole / "config.json", mm_projector_type=kind)
        assert "mm_projector_type must be mlp2x_gelu" in refused(convert_hf.main, *words)
    edit(whole / "config.json", mm_projector_type="mlp2x_gelu", mm_vision_tower=str(tmp_path / "gone"))
    assert "vision tower" in refused(convert_hf.main, *words)
    assert not target.exists()


def test_names_go_there_and_back(whole, tiny_checkpoint):
    names = [*read_state_dict(whole), *(TOWER + name for name in read_state_dict(tiny_checkpoint / "vision_tower"))]
    for name in names:
        assert hf_names.from_hf(hf_names.to_hf(name)) == name
