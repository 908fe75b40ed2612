"""Merged models are what base and adapter are together; projectors come out as they went in."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_checkpoint, make_tiny_lora

from llava.eval import run_llava
from llava.generate.questions import template_of
from llava.model import adapter
from llava.model.builder import load_pretrained_model
from llava.model.weights import read_state_dict
from scripts_visatb.checkpoints import extract_mm_projector, merge_lora_weights
from scripts_visatb.checkpoints.folders import divide, new_folder, size_in_bytes
from visatb.errors import InputError


def load(path, base=None, **settings):
    return load_pretrained_model(str(path), None if base is None else str(base), "llava", device="cpu", **settings)


def same(found, expected):
    assert found.keys() == expected.keys()
    return all(torch.equal(found[key], expected[key]) for key in expected)


def merge(path, base, target, *words):
    main = merge_lora_weights.main
    main(["--model-path", str(path), "--model-base", str(base), "--save-model-path", str(target), *words])


def answer(path, base=None):
    words = ["--model-path", str(path), *(["--model-base", str(base)] if base else [])]
    words += ["--query", "What colour is the square?", "--temperature", "0", "--max_new_tokens", "12"]
    run_llava.main([*words, "--device", "cpu", "--dtype", "fp32"])


@pytest.mark.parametrize("kind", ["lora", "stage1"])
def test_a_merged_folder_answers_as_base_and_adapter(tiny_checkpoint, request, tmp_path, kind, capsys):
    folder, base = request.getfixturevalue(kind), tiny_checkpoint / "llama"
    merge(folder, base, tmp_path / "merged", "--max-shard-size", "200KB")
    together, merged = load(folder, base)[1], load(tmp_path / "merged")[1]
    assert same(merged.state_dict(), together.state_dict())
    capsys.readouterr()
    answer(folder, base)
    answer(tmp_path / "merged")
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and first
    names = {file.name for file in (tmp_path / "merged").iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json"} <= names
    assert len(list((tmp_path / "merged").glob("model-*-of-*.safetensors"))) > 1
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["architectures"] == ["LlavaLlamaForCausalLM"] and config["model_type"] == "llava"


@pytest.mark.parametrize("kind", ["lora", "stage1"])
def test_a_merged_folder_keeps_the_template_of_the_training(tiny_checkpoint, request, tmp_path, kind, edit):
    folder = request.getfixturevalue(kind)
    edit(folder / "config.json", conversation_version="llava_llama_2", model_type="llava_llama")
    merge(folder, tiny_checkpoint / "llama", tmp_path / "merged")
    assert template_of(str(tmp_path / "merged"))[0] == "llava_llama_2"


def test_the_adapter_is_the_sum_of_closed_form(tiny_checkpoint, lora):
    """W + (alpha / r) B A, in every layer that has an adapter, and nowhere else."""
    base = load_file(tiny_checkpoint / "llama" / "model.safetensors")
    deltas = torch.load(lora / "adapter_model.bin", weights_only=True)
    found = load(lora, tiny_checkpoint / "llama")[1].state_dict()
    for name in base:
        place = f"base_model.model.{name.removesuffix('.weight')}"
        expected = base[name]
        if f"{place}.lora_A.weight" in deltas:
            expected = expected + 2 * deltas[f"{place}.lora_B.weight"] @ deltas[f"{place}.lora_A.weight"]
        torch.testing.assert_close(found[name], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype, stored", [("auto", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)])
def test_the_dtype_of_training_is_kept_unless_another_is_set(tiny_checkpoint, lora, tmp_path, edit, dtype, stored):
    edit(lora / "config.json", torch_dtype="bfloat16")
    merge(lora, tiny_checkpoint / "llama", tmp_path / "merged", "--dtype", dtype)
    weights = read_state_dict(tmp_path / "merged")
    assert {tensor.dtype for name, tensor in weights.items() if "inv_freq" not in name} == {stored}
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["torch_dtype"] == str(stored).removeprefix("torch.")
    together = load(lora, tiny_checkpoint / "llama", torch_dtype=stored)[1].state_dict()
    assert same(load(tmp_path / "merged", torch_dtype=stored)[1].state_dict(), together)


def test_a_base_with_its_vision_tower_inside_gets_no_adapter_there(tmp_path):
    """The tower's layers are called q_proj and v_proj too."""
    checkpoint = make_tiny_checkpoint(tmp_path, tower_inside=True)
    lora = make_tiny_lora(tmp_path / "llava-lora", checkpoint)
    found = load(lora, checkpoint / "llava-tiny")[1].state_dict()
    tower = read_state_dict(checkpoint / "vision_tower")
    for name, tensor in tower.items():
        assert torch.equal(found[f"model.vision_tower.vision_tower.{name}"], tensor)


def test_settings_of_later_releases_that_change_nothing_are_passed_over(tiny_checkpoint, lora, edit):
    expected = load(lora, tiny_checkpoint / "llama")[1].state_dict()
    later = {"eva_config": None, "use_qalora": False, "qalora_group_size": 16, "peft_version": "0.18.0"}
    later |= {"auto_mapping": {"base_model_class": "X", "parent_library": "this"}, "megatron_core": "this"}
    edit(lora / "adapter_config.json", **later, lora_bias=False, exclude_modules=None, target_parameters=None)
    assert same(load(lora, tiny_checkpoint / "llama")[1].state_dict(), expected)


def grown(checkpoint, rows):
    """Embeddings and lm_head of the tiny Llama with more rows."""
    base = load_file(checkpoint / "llama" / "model.safetensors")
    names = ("model.embed_tokens.weight", "lm_head.weight")
    return {name: torch.cat([base[name], 1 + torch.arange(64.0).repeat(rows, 1)]) for name in names}


@pytest.mark.parametrize("place", ["beside", "in the adapter", "as modules_to_save"])
def test_a_vocabulary_that_grew_with_the_adapter_loads(tiny_checkpoint, lora, edit, place):
    extra = {f"base_model.model.{name}": tensor for name, tensor in grown(tiny_checkpoint, 2).items()}
    file = lora / ("non_lora_trainables.bin" if place == "beside" else "adapter_model.bin")
    torch.save(torch.load(file, weights_only=True) | extra, file)
    edit(lora / "config.json", vocab_size=392, mm_use_im_start_end=True)
    if place == "as modules_to_save":
        edit(lora / "adapter_config.json", modules_to_save=["embed_tokens", "lm_head"])
    tokenizer, model, _, _ = load(lora, tiny_checkpoint / "llama")
    found = model.state_dict()
    for name, tensor in grown(tiny_checkpoint, 2).items():
        assert torch.equal(found[name], tensor)
    assert tokenizer.convert_tokens_to_ids("<im_end>") == 391 and model.config.vocab_size == 392


@pytest.mark.parametrize("rows", ["all", "new ones"])
def test_a_projector_with_new_embeddings_loads(tiny_checkpoint, stage1, edit, rows):
    """mm_use_im_start_end in stage 1 trains the input embeddings; lm_head's new rows stay the mean of the others."""
    embeddings = grown(tiny_checkpoint, 2)["model.embed_tokens.weight"]
    file = stage1 / "mm_projector.bin"
    stored = embeddings if rows == "all" else embeddings[-2:].clone()
    torch.save(torch.load(file, weights_only=True) | {"model.embed_tokens.weight": stored}, file)
    edit(stage1 / "config.json", vocab_size=392, mm_use_im_start_end=True)
    found = load(stage1, tiny_checkpoint / "llama")[1].state_dict()
    assert torch.equal(found["model.embed_tokens.weight"], embeddings)
    head = load_file(tiny_checkpoint / "llama" / "model.safetensors")["lm_head.weight"]
    torch.testing.assert_close(found["lm_head.weight"][390:], head.mean(0, keepdim=True).repeat(2, 1))


def test_tokens_that_no_file_has_rows_of_get_the_mean_of_the_others(tiny_checkpoint, stage1, edit):
    """<im_patch> of a projector-only folder: a drawn row would give other logits at every start."""
    edit(stage1 / "config.json", vocab_size=391, mm_use_im_patch_token=True)
    base = load_file(tiny_checkpoint / "llama" / "model.safetensors")
    found = load(stage1, tiny_checkpoint / "llama")[1].state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        torch.testing.assert_close(found[name][390:], base[name].mean(0, keepdim=True))


def test_a_taken_target_is_refused_before_anything_is_read(lora, refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    for target in (lora, tmp_path / "file", tmp_path / "file" / "below"):
        words = ["--model-path", "nowhere", "--model-base", "nowhere", "--save-model-path", target]
        refused(merge_lora_weights.main, *words)
    assert (tmp_path / "file").read_text() == "mine"
    refused(merge_lora_weights.main, *words[:-1], tmp_path / "new", "--max-shard-size", "many")


def test_an_empty_folder_may_be_the_target(tiny_checkpoint, lora, tmp_path):
    (tmp_path / "merged").mkdir()
    merge(lora, tiny_checkpoint / "llama", tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").is_file()


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing(tmp_path, failure):
    with pytest.raises(type(failure)), new_folder(tmp_path / "target") as folder:
        (folder / "part").write_text("half")
        raise failure
    assert not list(tmp_path.iterdir())


def test_a_target_that_was_filled_meanwhile_is_left_alone(tmp_path):
    with pytest.raises(OSError), new_folder(tmp_path / "target") as folder:
        (folder / "ours").write_text("x")
        (tmp_path / "target").mkdir()
        (tmp_path / "target" / "theirs").write_text("y")
    assert [path.name for path in tmp_path.rglob("*")] == ["target", "theirs"]


def test_shards_stay_within_their_size_unless_one_tensor_exceeds_it():
    weights = {name: torch.zeros(size) for name, size in zip("abcd", (10, 10, 100, 10), strict=True)}
    assert divide(weights, 80) == {
        "a": "model-00001-of-00003.safetensors",
        "b": "model-00001-of-00003.safetensors",
        "c": "model-00002-of-00003.safetensors",
        "d": "model-00003-of-00003.safetensors",
    }
    assert set(divide(weights, 10**6).values()) == {"model.safetensors"}
    assert size_in_bytes("2KB") == 2000
    with pytest.raises(InputError):
        size_in_bytes("0GB")


def extract(path, output):
    extract_mm_projector.main(["--model_name_or_path", str(path), "--output", str(output)])
    return torch.load(output, weights_only=True)


def test_the_projector_of_every_kind_of_folder(tiny_checkpoint, whole, lora, tmp_path):
    expected = torch.load(tiny_checkpoint / "mm_projector.bin", weights_only=True)
    assert same(extract(whole, tmp_path / "a.bin"), expected)
    assert (tmp_path / "a.bin").stat().st_size < 10 * sum(tensor.nbytes for tensor in expected.values())
    assert same(extract(lora, tmp_path / "b.bin"), adapter.read_others(str(lora)))
    weights = load_file(whole / "model.safetensors")
    (whole / "model.safetensors").unlink()
    torch.save(weights, whole / "pytorch_model.bin")
    assert same(extract(whole, tmp_path / "c.bin"), expected)


def test_only_the_shard_with_the_projector_is_opened(whole, tmp_path):
    weights = load_file(whole / "model.safetensors")
    projector = {name: tensor for name, tensor in weights.items() if "mm_projector" in name}
    (whole / "model.safetensors").unlink()
    save_file(projector, whole / "b.safetensors")
    (whole / "a.safetensors").write_bytes(b"not even a safetensors file")
    table = {name: "b.safetensors" if name in projector else "a.safetensors" for name in weights}
    (whole / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    assert same(extract(whole, tmp_path / "mm_projector.bin"), projector)


def test_embeddings_go_with_the_projector_where_they_were_trained(whole, tmp_path, edit):
    edit(whole / "config.json", mm_use_im_start_end=True)
    found = extract(whole, tmp_path / "mm_projector.bin")
    name = "model.embed_tokens.weight"
    assert torch.equal(found[name], load_file(whole / "model.safetensors")[name])


def test_a_model_without_projector_has_none_to_extract(tiny_checkpoint, refused, tmp_path, edit):
    shutil.copytree(tiny_checkpoint / "llama", tmp_path / "llama")
    refused(extract_mm_projector.main, "--model-path", tmp_path / "llama", "--output", tmp_path / "a.bin")
    edit(tmp_path / "llama" / "config.json", mm_vision_tower="x")
    line = refused(extract_mm_projector.main, "--model-path", tmp_path / "llama", "--output", tmp_path / "a.bin")
    assert "mm_projector" in line and not (tmp_path / "a.bin").exists()


@pytest.mark.golden
def test_the_recorded_projector_is_extracted(golden, tmp_path, monkeypatch):
    monkeypatch.chdir(golden)
    expected = torch.load(golden / "mm_projector.bin", weights_only=True)
    for folder in ("checkpoint", "checkpoint_bin"):
        assert same(extract(folder, tmp_path / f"{folder}.bin"), expected)
