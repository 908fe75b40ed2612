"""QLoRA as far as a CPU shows it: what the base is loaded with, how it is prepared, what is refused.

With bitsandbytes installed (its CPU code counts as well) a training over a quantised base runs too.
"""

from types import SimpleNamespace

import pytest
import torch
from tiny import make_tiny_checkpoint, make_tiny_dataset

from llava.model import LlavaLlamaForCausalLM
from llava.train import lora, training_arguments
from llava.train.arguments import parse_arguments
from llava.train.assembly import build_model, build_trainer, load_data
from llava.train.saving import check_saved, save_final_model
from transformers_patch import EqualWeighting
from visatb.errors import InputError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("quantised"))
    make_tiny_dataset(folder, 12, "data.json")
    return folder


@pytest.fixture
def gpu(monkeypatch):
    """A machine that says it has a GPU and bitsandbytes."""
    monkeypatch.setattr(training_arguments, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: True)))
    monkeypatch.setattr(training_arguments, "find_spec", lambda name: object())


NEEDED = ["--model_name_or_path", "m", "--data_path", "d", "--output_dir", "o", "--report_to", "none"]


def checked(*flags, **changes):
    """Arguments parsed without --bits, then checked with other settings."""
    args = parse_arguments([*NEEDED, "--lora_enable", "True", *flags])[2]
    for name, value in changes.items():
        object.__setattr__(args, name, value)
    training_arguments.check_machine(args)
    return args


def test_quantised_training_without_gpu_or_bitsandbytes_is_refused(gpu, monkeypatch):
    assert checked(bits=4).bits == 4
    monkeypatch.setattr(training_arguments, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--bits 8 needs bitsandbytes. Run: pip install -e '.\[quantisation\]'"):
        checked(bits=8)
    monkeypatch.setattr(training_arguments, "torch", torch)
    with pytest.raises(InputError, match="--bits 4 needs an NVIDIA GPU"):
        checked(bits=4)


def test_zero3_over_a_quantised_base_is_refused(gpu):
    zero3 = SimpleNamespace(is_zero3=lambda: True, is_true=lambda key: True)
    with pytest.raises(InputError, match="zero3.json: ZeRO-3 cannot split a model in 4 bits. Use zero2.json"):
        checked(bits=4, hf_deepspeed_config=zero3, deepspeed="zero3.json")


def test_stage_1_may_have_a_quantised_language_model(gpu):
    args = parse_arguments([*NEEDED, "--tune_mm_mlp_adapter", "True", "--vision_tower", "x"])[2]
    args.bits = 8
    training_arguments.check_machine(args)


@pytest.mark.parametrize("bits", [4, 8])
def test_projector_tower_and_head_are_not_quantised(monkeypatch, bits):
    seen = {}
    monkeypatch.setattr("transformers.BitsAndBytesConfig", lambda **given: seen.update(given) or "config")
    args = checked("--bf16", "True", "--no_cuda", "True", "--double_quant", "False", "--quant_type", "fp4")
    args.bits = bits
    assert lora.loading_arguments(args) == {
        "torch_dtype": torch.bfloat16,
        "device_map": {"": torch.device("cpu")},
        "quantization_config": "config",
    }
    assert seen == {
        "load_in_4bit": bits == 4,
        "load_in_8bit": bits == 8,
        "llm_int8_skip_modules": ["vision_tower", "mm_projector", "lm_head"],
        "bnb_4bit_compute_dtype": torch.bfloat16,
        "bnb_4bit_use_double_quant": False,
        "bnb_4bit_quant_type": "fp4",
    }


@pytest.mark.parametrize("half, dtype", [("--bf16", torch.bfloat16), (None, torch.float32)])
def test_a_prepared_base_is_frozen_with_llavas_dtypes(place, half, dtype):
    args = checked("--no_cuda", "True", *([half, "True"] if half else []))
    model = LlavaLlamaForCausalLM.from_pretrained(place / "llava-tiny", torch_dtype=dtype)
    model.config.quantization_config = {"load_in_4bit": True}
    lora.prepare_quantised(model, args)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    found = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {value for name, value in found.items() if "norm" in name or "mm_projector" in name} == {torch.float32}
    assert {found["model.embed_tokens.weight"], found["lm_head.weight"]} == {dtype}
    assert not hasattr(model.config, "quantization_config")


class Linear8bitLt(torch.nn.Linear):
    """Stands for bitsandbytes' layer, whose state lacks what PEFT 0.13.2 reads of it."""

    state = SimpleNamespace()


def test_8_bit_layers_get_the_attribute_that_peft_hands_on(place):
    model = LlavaLlamaForCausalLM.from_pretrained(place / "llava-tiny")
    model.model.layers[0].self_attn.q_proj = Linear8bitLt(64, 64)
    lora.prepare_quantised(model, checked("--no_cuda", "True"))
    assert model.model.layers[0].self_attn.q_proj.state.memory_efficient_backward is False


def test_a_checkpoint_with_the_scales_of_4_bit_weights_is_read_again(place):
    args = checked("--no_cuda", "True")
    model = LlavaLlamaForCausalLM.from_pretrained(place / "llava-tiny")
    lora.prepare_quantised(model, args)
    wrapped = lora.add_adapters(model, "base", False, args)
    place_of_scales = "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight.absmax"
    wrapped.load_state_dict(wrapped.state_dict() | {place_of_scales: torch.ones(3)})
    with pytest.raises(RuntimeError, match="Unexpected"):
        wrapped.load_state_dict(wrapped.state_dict() | {"base_model.model.foreign": torch.ones(3)})


@pytest.mark.parametrize("bits", [4, 8])
def test_qlora_trains_saves_and_resumes_on_a_quantised_base(place, tmp_path, monkeypatch, bits):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    given = ["--model_name_or_path", place / "llama", "--version", "v1", "--data_path", place / "data.json"]
    given += ["--image_folder", place / "images", "--vision_tower", place / "vision_tower", "--output_dir", tmp_path]
    given += ["--mm_projector_type", "mlp2x_gelu", "--mm_vision_select_layer", "-2", "--max_steps", "2"]
    given += ["--no_cuda", "True", "--report_to", "none", "--lora_enable", "True", "--lora_r", "4"]
    given += ["--gradient_checkpointing", "True", "--per_device_train_batch_size", "4", "--save_steps", "1"]
    groups = parse_arguments([str(word) for word in given])
    groups[2].bits = bits
    built = build_model(*groups)
    model = built.model
    layer = model.get_base_model().model.layers[0].self_attn.q_proj.base_layer
    assert isinstance(layer, bitsandbytes.nn.Linear4bit if bits == 4 else bitsandbytes.nn.Linear8bitLt)
    assert type(model.get_model().mm_projector[0]) is torch.nn.Linear
    del model.get_base_model().hf_device_map  # accelerate counts on a GPU's number there
    records = load_data(groups[1], ["all"])
    trainer = build_trainer(built, records, ["all"], EqualWeighting(1), *groups[1:])
    trainer.train()
    save_final_model(trainer)
    check_saved(model, tmp_path, built.vocabulary_grew)
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    trainer._load_from_checkpoint(str(tmp_path / "checkpoint-2"))
    assert all(torch.equal(p, trained[name]) for name, p in model.named_parameters() if p.requires_grad)
