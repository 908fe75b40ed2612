"""Checkpoints that are damaged, of another kind or made to do harm: one line, exit code 2, nothing left behind."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_checkpoint

import inference_visatb
from llava.eval import run_llava
from llava.model.builder import load_pretrained_model
from scripts_visatb.checkpoints import convert_hf, extract_mm_projector, merge_lora_weights
from visatb.errors import InputError

WEIGHTS = "model.safetensors"


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def rewrite(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def as_bin(folder, content):
    (folder / WEIGHTS).unlink()
    torch.save(content, folder / "pytorch_model.bin")


def as_bare_pickle(folder):
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(folder.parent / "ran")))


def index_of(folder, table):
    shutil.move(folder / WEIGHTS, folder.parent / "model-1.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": table}))


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def configure(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))

    return change


DAMAGED = {
    "config is not JSON": (write("config.json", "{"), "broken JSON"),
    "config is a list": (write("config.json", "[1]"), "JSON object"),
    "config is missing": (lambda f: (f / "config.json").unlink(), "config.json"),
    "another architecture": (
        configure(model_type="mpt"),
        "model_type must be one of llava, llava_llama, llama, got 'mpt'",
    ),
    "no model type": (configure(model_type=None), "model_type"),
    "code of its own": (configure(model_type="evil", auto_map={"AutoConfig": "evil.Config"}), "model_type"),
    "Hugging Face's layout": (configure(text_config={}), "--from-hf"),
    "hidden size is text": (configure(hidden_size="64"), "hidden_size"),
    "hidden size is negative": (configure(hidden_size=-64), "hidden_size"),
    "too many layers": (configure(num_hidden_layers=10**9), "num_hidden_layers"),
    "too many positions": (configure(max_position_embeddings=10**12), "max_position_embeddings"),
    "heads do not divide": (configure(num_attention_heads=7), "attention heads"),
    "another rotary base": (configure(rope_theta=500000.0), "rope_theta must be 10000"),
    "unknown activation": (configure(hidden_act="boom"), "boom"),
    "bad rotary scaling": (configure(rope_scaling={"type": "yarn"}), "rope_scaling"),
    "unknown dtype": (configure(torch_dtype="float7"), "float7"),
    "tower is a number": (configure(mm_vision_tower=7), "mm_vision_tower"),
    "unknown projector": (configure(mm_projector_type="resampler"), "mm_projector_type"),
    "wrong hidden size": (configure(hidden_size=32, intermediate_size=64), "do not fit"),
    "one layer more": (configure(num_hidden_layers=3), "missing model.layers.2"),
    "truncated": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-1000]), "damaged safetensors"),
    "empty weights": (lambda f: (f / WEIGHTS).write_bytes(b""), "damaged safetensors"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "no "),
    "no projector": (lambda f: rewrite(f, lambda w: w.pop("model.mm_projector.0.weight")), "mm_projector"),
    "whole numbers": (lambda f: rewrite(f, lambda w: w.update({"lm_head.weight": w["lm_head.weight"].int()})), "int32"),
    "pickle with code": (
        lambda f: as_bin(f, {"lm_head.weight": Bomb(f.parent / "ran")}),
        "(io.open) and was not loaded",
    ),
    "bare pickle": (lambda f: as_bare_pickle(f), "zip archive"),
    "sparse tensor": (
        lambda f: as_bin(f, {"lm_head.weight": torch.eye(3).to_sparse()}),
        "lm_head.weight is not a plain",
    ),
    "index points outside": (lambda f: index_of(f, {"lm_head.weight": "../model-1.safetensors"}), "leaves the folder"),
    "index without a shard": (lambda f: index_of(f, {"model.mm_projector.0.weight": "gone.safetensors"}), "is missing"),
    "index is a list": (lambda f: index_of(f, []), "weight_map"),
    "tokenizer is damaged": (lambda f: (f / "tokenizer.model").write_bytes(b"no"), "tokenizer"),
    "tokenizer is missing": (lambda f: (f / "tokenizer.model").unlink(), "tokenizer.model"),
    "tokenizer settings are a list": (write("tokenizer_config.json", "[]"), "tokenizer"),
    "generation settings are a list": (write("generation_config.json", "[]"), "generation_config.json"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_no_command_takes_a_damaged_whole_model(whole, refused, tmp_path, damage):
    change, said = DAMAGED[damage]
    change(whole)
    before = sorted(path.name for path in tmp_path.iterdir())
    line = refused(run_llava.main, "--model-path", whole, "--query", "What?", "--device", "cpu", "--dtype", "fp32")
    assert said in line
    target = tmp_path / "new" / "target"
    line = refused(convert_hf.main, "--to-hf", "--model-path", whole, "--save-model-path", target)
    assert said in line or damage == "no weights" and "not a full model" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "something was left behind"


@pytest.mark.parametrize("damage", ["config is a list", "truncated", "pickle with code", "index points outside"])
def test_inference_and_extraction_refuse_them_too(whole, refused, tiny_dataset, tmp_path, damage):
    change, said = DAMAGED[damage]
    change(whole)
    before = sorted(path.name for path in tmp_path.iterdir())
    words = ["--model-path", whole, "--question-file", tiny_dataset, "--answers-folder", tmp_path / "answers"]
    line = refused(inference_visatb.main, *words, "--image-folder", tiny_dataset.parent / "images")
    assert said in line
    assert not list((tmp_path / "answers").glob("*.json"))
    shutil.rmtree(tmp_path / "answers", ignore_errors=True)
    line = refused(extract_mm_projector.main, "--model-path", whole, "--output", tmp_path / "new" / "mm_projector.bin")
    assert said in line
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def adapter(**changes):
    def change(folder):
        config = json.loads((folder / "adapter_config.json").read_text()) | changes
        (folder / "adapter_config.json").write_text(json.dumps(config))

    return change


def resave(folder, name, change):
    content = torch.load(folder / name, weights_only=True)
    change(content)
    torch.save(content, folder / name)


ADAPTERS = {
    "not JSON": (write("adapter_config.json", "{"), "broken JSON"),
    "a list": (write("adapter_config.json", "[]"), "JSON object"),
    "prompt tuning": (adapter(peft_type="PROMPT_TUNING"), "peft_type must be LORA, got 'PROMPT_TUNING'"),
    "no kind": (adapter(peft_type=None), "peft_type"),
    "a module to import": (adapter(megatron_config={"a": 1}, megatron_core="this"), "megatron_config"),
    "a setting of later releases": (adapter(target_parameters=["experts"]), "target_parameters"),
    "base changed at the start": (adapter(init_lora_weights="pissa"), "pissa"),
    "rank is text": (adapter(r="4"), "r must be a whole number"),
    "rank is endless": (adapter(r=10**12), "r must be a whole number from 1 to 16384"),
    "rank is another": (adapter(r=8), "does not fit"),
    "no targets": (adapter(target_modules=[]), "target_modules"),
    "targets that are not there": (adapter(target_modules=["nothing"]), "does not fit"),
    "adapter is missing": (lambda f: (f / "adapter_model.bin").unlink(), "adapter_model"),
    "adapter with code": (lambda f: torch.save({"a": Bomb(f.parent / "ran")}, f / "adapter_model.bin"), "not loaded"),
    "projector with code": (
        lambda f: torch.save({"a": Bomb(f.parent / "ran")}, f / "non_lora_trainables.bin"),
        "not loaded",
    ),
    "projector is missing": (lambda f: (f / "non_lora_trainables.bin").unlink(), "mm_projector"),
    "half of the adapter": (
        lambda f: resave(f, "adapter_model.bin", lambda a: a.pop(next(iter(a)))),
        "the model needs",
    ),
    "stray weights": (
        lambda f: resave(f, "non_lora_trainables.bin", lambda a: a.update({"base_model.model.x": torch.zeros(1)})),
        "unexpected model.x",
    ),
}


@pytest.mark.parametrize("damage", ADAPTERS)
def test_no_command_takes_a_damaged_adapter(tiny_checkpoint, lora, refused, tmp_path, damage):
    change, said = ADAPTERS[damage]
    change(lora)
    words = ["--model-path", lora, "--model-base", tiny_checkpoint / "llama"]
    line = refused(run_llava.main, *words, "--query", "What?", "--device", "cpu", "--dtype", "fp32")
    assert said in line
    line = refused(merge_lora_weights.main, *words, "--save-model-path", tmp_path / "new" / "target")
    assert said in line
    assert [path.name for path in tmp_path.iterdir()] == ["llava-lora"], "something was left behind"


@pytest.fixture(scope="module")
def other_bases(tmp_path_factory):
    """Bases that the adapter was not trained on: name -> folder."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("bases"))
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 390}
    changes = {"narrower": {"hidden_size": 32}, "shallower": {"num_hidden_layers": 1}, "smaller": {"vocab_size": 300}}
    bases = {}
    for name, change in changes.items():
        config = LlamaConfig(**sizes | change, num_attention_heads=4, max_position_embeddings=512)
        bases[name] = folder / name
        LlamaForCausalLM(config).save_pretrained(bases[name], safe_serialization=True)
        LlamaTokenizer.from_pretrained(folder / "llama").save_pretrained(bases[name])
    return bases


@pytest.mark.parametrize("base", ["narrower", "shallower", "smaller"])
def test_a_base_that_does_not_fit_is_refused(other_bases, lora, stage1, refused, tmp_path, base):
    for folder in (lora, stage1):
        words = ["--model-path", folder, "--model-base", other_bases[base]]
        line = refused(merge_lora_weights.main, *words, "--save-model-path", tmp_path / "target")
        assert ("has 300 tokens" if base == "smaller" else "do not fit the model") in line and base in line
    assert not (tmp_path / "target").exists()


def test_an_adapter_without_base_names_the_one_it_was_trained_on(lora, refused, edit):
    line = refused(run_llava.main, "--model-path", lora, "--query", "What?", "--device", "cpu")
    assert "--model-base" in line and "tiny/llama" in line


def test_hostile_tokenizer_settings_run_nothing_and_ask_nothing(whole, edit, monkeypatch):
    """transformers would ask the user whether to run the code that tokenizer_config.json names."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked a question"))
    (whole / "evil.py").write_text("raise SystemExit('ran')")
    edit(whole / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}, tokenizer_class="Evil")
    assert len(load_pretrained_model(str(whole), None, "llava", device="cpu")[0]) == 390


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "nonsense"])
def test_a_device_that_is_not_there_is_refused(whole, device):
    if device != "nonsense" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="device"):
        load_pretrained_model(str(whole), None, "llava", device=device)


TOWERS = {
    "config is a list": write("config.json", "[1]"),
    "config is not JSON": write("config.json", "{"),
    "sizes are text": configure(hidden_size="32"),
    "another size": configure(hidden_size=48, intermediate_size=96),
    "image processor is a list": write("preprocessor_config.json", "[1]"),
    "no image processor": lambda folder: (folder / "preprocessor_config.json").unlink(),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "truncated": lambda folder: (folder / WEIGHTS).write_bytes(b"\x10"),
}


@pytest.mark.parametrize("damage", TOWERS)
def test_a_damaged_vision_tower_is_refused(tiny_checkpoint, whole, refused, edit, tmp_path, damage):
    tower = shutil.copytree(tiny_checkpoint / "vision_tower", tmp_path / "tower")
    TOWERS[damage](tower)
    edit(whole / "config.json", mm_vision_tower=str(tower))
    line = refused(run_llava.main, "--model-path", whole, "--query", "What?", "--device", "cpu", "--dtype", "fp32")
    assert str(tower) in line or "vision_tower" in line or "vision" in line
    refused(convert_hf.main, "--to-hf", "--model-path", whole, "--save-model-path", tmp_path / "new" / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tower", "whole"]
