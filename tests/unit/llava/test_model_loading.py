"""Every kind of folder that users have loads; what does not fit is refused and listed."""

import json
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava.model.builder import load_pretrained_model
from llava.model.weights import read_state_dict, read_tensors
from visatb.errors import InputError


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    """A copy of the whole checkpoint, without `llava` in its name."""
    shutil.copytree(tiny_checkpoint / "llava-tiny", tmp_path / "model")
    return tmp_path / "model"


def load(path, base=None, name="model", **settings):
    return load_pretrained_model(str(path), None if base is None else str(base), name, device="cpu", **settings)


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def rewrite(folder, weights):
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def same(found, expected):
    assert found.keys() == expected.keys()
    return all(torch.equal(found[key], expected[key]) for key in expected)


def test_config_decides_when_the_name_does_not_say_llava(folder, model):
    tokenizer, found, image_processor, context = load(folder, name="my_run")
    assert same(found.state_dict(), model.state_dict()) and not found.training
    assert image_processor.crop_size == {"height": 56, "width": 56} and context == 2048
    assert not tokenizer.is_fast and found.get_vision_tower().is_loaded


_LOADED = """
import sys
from llava.model.builder import load_pretrained_model

load_pretrained_model(sys.argv[1], None, "model", device="cpu")
sys.exit("torch._dynamo" in sys.modules)
"""


def test_loading_does_not_import_torchs_compiler(folder, repository):
    assert subprocess.run([sys.executable, "-c", _LOADED, str(folder)], cwd=repository).returncode == 0


def test_bin_files_and_shards_load_like_safetensors(folder, model):
    weights = weights_of(folder)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert same(load(folder)[1].state_dict(), model.state_dict())
    (folder / "pytorch_model.bin").unlink()
    names = sorted(weights)
    for suffix, save in (("safetensors", save_file), ("bin", torch.save)):
        stem = "model" if suffix == "safetensors" else "pytorch_model"
        table = {}
        for n, part in enumerate((names[:7], names[7:])):
            file = f"{stem}-{n + 1:05d}-of-00002.{suffix}"
            save({name: weights[name] for name in part}, folder / file)
            table |= dict.fromkeys(part, file)
        index = folder / f"{stem}.{suffix}.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": table}))
        assert same(load(folder)[1].state_dict(), model.state_dict())
        (folder / file).unlink()
        with pytest.raises(InputError, match="shard .* is missing"):
            load(folder)
        index.unlink()


def test_tower_weights_inside_the_checkpoint_win(tiny_checkpoint, folder):
    weights = weights_of(folder)
    tower = read_state_dict(tiny_checkpoint / "vision_tower")
    changed = {f"model.vision_tower.vision_tower.{key}": value + 1 for key, value in tower.items()}
    rewrite(folder, weights | changed)
    found = load(folder)[1].state_dict()
    assert same({key: found[key] for key in changed}, changed)
    del changed["model.vision_tower.vision_tower.vision_model.embeddings.class_embedding"]
    rewrite(folder, weights | changed)
    with pytest.raises(InputError, match="class_embedding"):
        load(folder)


def test_a_checkpoint_without_its_projector_is_refused(folder):
    rewrite(folder, {key: value for key, value in weights_of(folder).items() if "mm_projector" not in key})
    with pytest.raises(InputError, match=r"missing model\.mm_projector\.0\.weight"):
        load(folder)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda w: w.pop("lm_head.weight"), "missing lm_head.weight"),
        (lambda w: w.update({"model.layers.9.x": torch.zeros(1)}), "unexpected model.layers.9.x"),
        (lambda w: w.update({"model.norm.weight": torch.zeros(3)}), r"misshapen model.norm.weight \(3,\)"),
    ],
)
def test_weights_that_do_not_fit_are_listed(folder, change, said):
    weights = weights_of(folder)
    change(weights)
    rewrite(folder, weights)
    with pytest.raises(InputError, match=said) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_rotary_frequencies_may_be_absent(folder, model):
    rewrite(folder, {key: value for key, value in weights_of(folder).items() if "inv_freq" not in key})
    ids = torch.tensor([[1, 20, 21]])
    assert torch.equal(load(folder)[1](ids).logits, model(ids).logits)


def test_half_precision_keeps_the_rotary_frequencies_exact(folder, model):
    found = load(folder, torch_dtype=torch.bfloat16)[1]
    assert found.dtype == found.get_vision_tower().dtype == torch.bfloat16
    for key, value in model.state_dict().items():
        if "inv_freq" in key:
            assert torch.equal(found.state_dict()[key], value)


def test_a_projector_folder_needs_and_takes_its_base(tiny_checkpoint, tmp_path, model):
    folder = tmp_path / "llava-pretrain"
    folder.mkdir()
    for name in ("mm_projector.bin", "llava-tiny/config.json"):
        shutil.copy(tiny_checkpoint / name, folder)
    assert same(load(folder, tiny_checkpoint / "llama")[1].state_dict(), model.state_dict())
    with pytest.raises(InputError, match="--model-base"):
        load(folder)
    (folder / "mm_projector.bin").unlink()
    with pytest.raises(InputError, match=r"mm_projector\.bin"):
        load(folder, tiny_checkpoint / "llama")


@pytest.fixture
def lora(tiny_checkpoint, tmp_path, model):
    """An adapter folder as LoRA training saves it, and the logits of the model that it was taken from."""
    from peft import LoraConfig, get_peft_model

    from llava.model import LlavaLlamaForCausalLM

    trained = LlavaLlamaForCausalLM.from_pretrained(tiny_checkpoint / "llava-tiny")
    targets = ["q_proj", "v_proj", "down_proj"]
    wrapped = get_peft_model(trained, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name or "mm_projector" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    folder = tmp_path / "llava-lora"
    wrapped.save_pretrained(folder)
    trained.config.save_pretrained(folder)
    others = {key: value for key, value in wrapped.named_parameters() if "mm_projector" in key}
    torch.save(others, folder / "non_lora_trainables.bin")
    wrapped.eval()
    wrapped.get_base_model().get_vision_tower().load_model()
    images = torch.randn(1, 3, 56, 56, generator=draw)
    with torch.no_grad():
        expected = wrapped.get_base_model()(torch.tensor([[1, -200, 20]]), images=images).logits
    return folder, images, expected


@pytest.mark.parametrize("adapter", ["safetensors", "bin"])
def test_a_lora_folder_is_merged_into_its_base(tiny_checkpoint, lora, adapter):
    folder, images, expected = lora
    if adapter == "bin":
        torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
        (folder / "adapter_model.safetensors").unlink()
    model = load(folder, tiny_checkpoint / "llama", "llava-lora")[1]
    with torch.no_grad():
        found = model(torch.tensor([[1, -200, 20]]), images=images).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert not any("lora" in key for key in model.state_dict())


def test_a_lora_folder_without_base_or_projector_or_tensors_is_refused(tiny_checkpoint, lora):
    folder, _, _ = lora
    with pytest.raises(InputError, match="--model-base"):
        load(folder)
    deltas = load_file(folder / "adapter_model.safetensors")
    save_file(dict(list(deltas.items())[2:]), folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match="needs"):
        load(folder, tiny_checkpoint / "llama")
    (folder / "non_lora_trainables.bin").unlink()
    with pytest.raises(InputError, match="mm_projector"):
        load(folder, tiny_checkpoint / "llama")


def test_a_text_model_loads_without_an_image_processor(tiny_checkpoint):
    _, model, image_processor, _ = load(tiny_checkpoint / "llama", name="vicuna")
    assert image_processor is None and model(torch.tensor([[1, 5]])).logits.shape == (1, 2, 390)


def test_llava_in_the_name_of_a_text_model_changes_nothing(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint / "llama", tmp_path / "llava-study")
    assert load(folder, name="llava-study")[2] is None


def test_quantising_on_a_cpu_is_refused(folder):
    for flags in ({"load_8bit": True}, {"load_4bit": True}, {"load_8bit": True, "load_4bit": True}):
        with pytest.raises(InputError, match="load-8bit"):
            load(folder, **flags)


def test_folders_that_are_no_model_are_refused_in_one_line(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"config\.json"):
        load(tmp_path / "empty")
    edit_config(folder, mm_vision_tower=None)
    with pytest.raises(InputError, match="mm_vision_tower"):
        load(folder)
    edit_config(folder, model_type="llama", mm_vision_tower="")
    with pytest.raises(InputError, match="mm_vision_tower"):
        load(folder)
    edit_config(folder, model_type="gpt2")
    with pytest.raises(InputError, match="model_type"):
        load(folder)
    edit_config(folder, model_type="llava", mm_vision_tower=str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="vision tower"):
        load(folder)
    (folder / "tokenizer.model").unlink()
    with pytest.raises(InputError, match="tokenizer"):
        load(folder)


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def hostile_files(folder, trace):
    """name -> path of files that are not a plain dict of tensors."""
    contents = {
        "pickle.bin": pickle.dumps(Bomb(trace)),
        "empty.bin": b"",
        "text.bin": b"hello",
        "cut.bin": None,
        "cut.safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00{}",
        "pickle.safetensors": pickle.dumps(Bomb(trace)),
    }
    torch.save({"a": torch.zeros(50)}, folder / "whole")
    contents["cut.bin"] = (folder / "whole").read_bytes()[:-200]
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    objects = {
        "bomb.bin": {"model.norm.weight": Bomb(trace)},
        "list.bin": [torch.zeros(2)],
        "nested.bin": {"a": {"b": torch.zeros(2)}},
        "number.bin": {3: torch.zeros(2)},
    }
    for name, content in objects.items():
        torch.save(content, folder / name)
    torch.save({"a": torch.zeros(2), "b": Bomb(trace)}, folder / "legacy.bin", _use_new_zipfile_serialization=False)
    return [*contents, *objects, "legacy.bin"]


@pytest.mark.parametrize("environment", [None, "1"])
def test_files_that_could_run_code_or_are_damaged_are_refused(tmp_path, monkeypatch, environment):
    if environment:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", environment)
    trace = tmp_path / "ran"
    for name in hostile_files(tmp_path, trace):
        with pytest.raises(InputError) as caught:
            read_tensors(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
        assert not trace.exists(), name


def test_an_index_cannot_point_out_of_its_folder(folder):
    (folder / "model.safetensors").rename(folder.parent / "model-1.safetensors")
    index = {"weight_map": {"lm_head.weight": "../model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="leaves the folder"):
        load(folder)
