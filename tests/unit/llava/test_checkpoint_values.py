"""A value of a checkpoint's JSON files that nothing can use is refused by file and key, before the weights are read."""

import json
import shutil

import pytest
from tiny import make_tiny_lora

from llava.model import builder
from llava.model.builder import load_pretrained_model
from llava.model.config_file import read_base_config
from visatb.errors import InputError

CONFIG = [
    ("mm_vision_select_layer", "x"),
    ("mm_vision_select_layer", 2.5),
    ("mm_vision_select_layer", True),
    ("is_encoder_decoder", "x"),
    ("is_encoder_decoder", True),
    ("hidden_size", "64"),
    ("hidden_size", -64),
    ("hidden_size", 64.0),
    ("num_hidden_layers", 10**30),
    ("vocab_size", None),
    ("pad_token_id", 390),
    ("eos_token_id", [2, 390]),
    ("bos_token_id", 32000),
    ("suppress_tokens", [390]),
    ("bos_token_id", [1]),
    ("eos_token_id", "2"),
    ("hidden_act", "x"),
    ("hidden_act", ["silu"]),
    ("rms_norm_eps", "1e-5"),
    ("tie_word_embeddings", 1),
    ("torch_dtype", "float17"),
    ("torch_dtype", "load"),
    ("rope_scaling", "linear"),
    ("rope_theta", 5e5),
    ("pretraining_tp", 3),
    ("use_cache", "yes"),
    ("pruned_heads", {"0": [1]}),
    ("id2label", ["a"]),
    ("output_attentions", 2),
    ("mm_projector_type", "mlp1000000x_gelu"),
    ("mm_hidden_size", "32"),
    ("mm_vision_select_feature", "cls"),
    ("mm_use_im_start_end", "False"),
    ("tokenizer_padding_side", "middle"),
    ("conversation_version", "v9"),
    ("max_length", "x"),
    ("to_dict", 5),
    ("__class__", "x"),
]
FILES = [
    ("llava-tiny", "generation_config.json", "eos_token_id", "x"),
    ("llava-tiny", "generation_config.json", "eos_token_id", 390),
    ("llava-tiny", "generation_config.json", "temperature", [1]),
    ("llava-tiny", "generation_config.json", "validate", 1),
    ("llava-tiny", "tokenizer_config.json", "model_max_length", "x"),
    ("llava-tiny", "tokenizer_config.json", "padding_side", "middle"),
    ("llava-tiny", "tokenizer_config.json", "bos_token", 7),
    ("llava-tiny", "tokenizer_config.json", "sp_model_kwargs", [1]),
    ("llava-tiny", "special_tokens_map.json", "eos_token", {"x": "y"}),
    ("llava-tiny", "special_tokens_map.json", "bos_token", None),
    ("llava-tiny", "added_tokens.json", "<x>", "400"),
    ("vision_tower", "config.json", "hidden_size", "32"),
    ("vision_tower", "config.json", "model_type", "siglip_vision_model"),
    ("vision_tower", "config.json", "initializer_range", -1),
    ("vision_tower", "config.json", "num_labels", 10**12),
    ("vision_tower", "preprocessor_config.json", "image_mean", 7),
    ("vision_tower", "preprocessor_config.json", "image_mean", [0.5, 0.5, "x"]),
    ("vision_tower", "preprocessor_config.json", "image_std", [0.26, 0.26]),
    ("vision_tower", "preprocessor_config.json", "image_std", [0.26, 0.26, 0]),
    ("vision_tower", "preprocessor_config.json", "crop_size", 55),
    ("vision_tower", "preprocessor_config.json", "size", {"shortest_edge": 10**4}),
    ("vision_tower", "preprocessor_config.json", "do_resize", "x"),
    ("vision_tower", "preprocessor_config.json", "do_rescale", False),
    ("vision_tower", "preprocessor_config.json", "resample", 9),
    ("vision_tower", "preprocessor_config.json", "preprocess", None),
    ("lora", "adapter_config.json", "r", "4"),
    ("lora", "adapter_config.json", "lora_alpha", 10**400),
    ("lora", "adapter_config.json", "rank_pattern", {"q_proj": "x"}),
    ("lora", "adapter_config.json", "layers_to_transform", ["x"]),
    ("lora", "adapter_config.json", "target_modules", [7]),
]


@pytest.fixture
def place(tiny_checkpoint, tmp_path):
    """Copies of checkpoint, tower and adapter, to be changed."""
    for name in ("llava-tiny", "vision_tower"):
        shutil.copytree(tiny_checkpoint / name, tmp_path / name)
    make_tiny_lora(tmp_path / "lora", tiny_checkpoint)
    edit(tmp_path / "llava-tiny" / "config.json", mm_vision_tower=str(tmp_path / "vision_tower"))
    return tmp_path


def edit(file, **changes):
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(content | changes))


def refusal(call) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("key, value", CONFIG)
def test_a_config_value_is_refused_before_weights_are_read(place, monkeypatch, key, value):
    folder = place / "llava-tiny"
    edit(folder / "config.json", **{key: value})
    monkeypatch.setattr(builder, "read_state_dict", None)
    for read in (
        lambda: load_pretrained_model(str(folder), None, "model", device="cpu"),
        lambda: read_base_config(folder),
    ):
        said = refusal(read)
        assert said.startswith(f"{folder}/config.json: ") and key in said, said


@pytest.mark.parametrize("folder, name, key, value", FILES)
def test_values_of_the_other_files_are_refused_too(place, tiny_checkpoint, folder, name, key, value):
    edit(place / folder / name, **{key: value})
    model, base = ("lora", str(tiny_checkpoint / "llama")) if folder == "lora" else ("llava-tiny", None)
    said = refusal(lambda: load_pretrained_model(str(place / model), base, "model", device="cpu"))
    assert f"{place / folder / name}: " in said and key in said, said


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_a_file_that_is_no_object_is_refused(place, name):
    (place / "llava-tiny" / name).write_text("[1]")
    said = refusal(lambda: load_pretrained_model(str(place / "llava-tiny"), None, "model", device="cpu"))
    assert f"{name}: must be a JSON object" in said


def test_a_tokenizer_file_elsewhere_is_not_read(place):
    edit(place / "llava-tiny" / "tokenizer_config.json", vocab_file="/nowhere/tokenizer.model")
    tokenizer = load_pretrained_model(str(place / "llava-tiny"), None, "model", device="cpu")[0]
    assert tokenizer.vocab_file == str(place / "llava-tiny" / "tokenizer.model")


def test_a_processor_that_fails_otherwise_is_refused_by_its_file(place, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("llava.model.multimodal_encoder.image_processor.process_image", fail)
    said = refusal(lambda: load_pretrained_model(str(place / "llava-tiny"), None, "model", device="cpu"))
    assert said.startswith(f"{place}/vision_tower/preprocessor_config.json: cannot be used: boom")


def test_values_that_public_checkpoints_have_are_taken(place):
    """The first Llamas' ids, Vicuna's sampling, LLaVA's keys since 2024, a number without its fraction."""
    edit(
        place / "llava-tiny" / "config.json",
        **{"pad_token_id": -1, "bos_token_id": 0, "rope_theta": 10000.0, "max_sequence_length": 2048, "prefix": None},
        **{"mm_vision_select_layer": -2, "attention_bias": False, "mm_projector_lr": None, "num_key_value_heads": None},
    )
    edit(place / "llava-tiny" / "generation_config.json", temperature=0.9, top_p=0.6, eos_token_id=[2, 3], top_k=None)
    edit(place / "vision_tower" / "preprocessor_config.json", size=56, crop_size={"height": 56, "width": 56})
    content = {"content": "</s>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    edit(place / "llava-tiny" / "special_tokens_map.json", eos_token=content)
    tokenizer, _, _, context = load_pretrained_model(str(place / "llava-tiny"), None, "model", device="cpu")
    assert tokenizer.eos_token == "</s>" and context == 2048
