"""The base that an adapter was trained on: known in any format and dtype, another one of the same shape refused."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_checkpoint, make_tiny_dataset

from llava.model.base_digest import BASE_FILE, base_digest
from llava.model.builder import load_pretrained_model
from llava.serve import cli
from llava.train.train import train
from scripts_visatb.checkpoints import merge_lora_weights
from visatb.errors import InputError
from visatb.files import read_json


def training(place, output, *flags, base="llama"):
    words = ["--model_name_or_path", place / base, "--version", "v1", "--data_path", place / "data.json"]
    words += ["--image_folder", place / "images", "--vision_tower", place / "vision_tower", "--output_dir", output]
    words += ["--mm_projector_type", "mlp2x_gelu", "--mm_vision_select_layer", "-2", "--max_steps", "1"]
    words += ["--mm_use_im_patch_token", "False", "--lora_enable", "True", "--lora_r", "4", "--no_cuda", "True"]
    words += ["--report_to", "none", "--disable_tqdm", "True", "--save_steps", "1", *flags]
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, data, and the folder `lora` of an adapter that was trained on that base."""
    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("base"))
    make_tiny_dataset(folder, 12, "data.json")
    assert train(training(folder, folder / "llava-lora")) == 0
    return folder


@pytest.fixture
def copy(place, tmp_path):
    """A function that copies the base with its weights changed."""

    def make(change, file="model.safetensors"):
        folder = shutil.copytree(place / "llama", tmp_path / "copy")
        weights = change(load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").unlink()
        if file.endswith(".bin"):
            torch.save(weights, folder / file)
        else:
            save_file(weights, folder / file, metadata={"format": "pt"})
        return folder

    return make


def load(path, base):
    return load_pretrained_model(str(path), str(base), "llava-lora", device="cpu")[1]


def nudged(name, by=1e-3):
    """One matrix as a short finetuning leaves it."""
    return lambda weights: weights | {name: weights[name] + by * torch.randn(weights[name].shape)}


def test_training_notes_its_base_with_every_save(place):
    for folder in (place / "llava-lora", place / "llava-lora" / "checkpoint-1"):
        note = read_json(folder / BASE_FILE)
        assert note["base"] == str(place / "llama") and note["dtype"] == "float32"
        assert set(note["sha256"]) == {"float32", "bfloat16", "float16"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_the_same_base_is_known_in_another_format_or_dtype(place, copy, capsys, file, dtype):
    load(place / "llava-lora", copy(lambda w: {name: value.to(dtype) for name, value in w.items()}, file))
    assert "warning" not in capsys.readouterr().err


def test_a_base_is_known_by_half_precision_saved_in_full(place, copy):
    half = {name: value.bfloat16() for name, value in load_file(place / "llama" / "model.safetensors").items()}
    stored, found = base_digest(half), base_digest({name: value.float() for name, value in half.items()})
    assert (stored["dtype"], found["dtype"]) == ("bfloat16", "float32")
    assert stored["sha256"] == found["sha256"]


def test_a_llava_checkpoint_with_the_same_language_model_is_the_same_base(place, capsys):
    load(place / "llava-lora", place / "llava-tiny")
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["model.layers.1.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_finetuned_copy_is_refused_whichever_part_was_trained(place, copy, name, dtype):
    def change(weights):
        return {key: value.to(dtype) for key, value in nudged(name, 1e-2)(weights).items()}

    with pytest.raises(InputError, match="copy: is not the model that .*llava-lora was trained on .*weights differ"):
        load(place / "llava-lora", copy(change))


def test_every_command_refuses_another_base(place, copy, refused, tmp_path):
    other, lora = copy(nudged("model.layers.0.self_attn.q_proj.weight")), place / "llava-lora"
    projector = place / "mm_projector.bin"
    words, stage_1 = ["--model-path", lora, "--model-base", other], ("--pretrain_mm_mlp_adapter", projector)
    lines = [
        refused(merge_lora_weights.main, *words, "--save-model-path", tmp_path / "new"),
        refused(cli.main, *words, "--conv-mode", "v1", "--device", "cpu"),
        refused(train, *training(place, tmp_path / "out", "--lora_weight_path", lora, *stage_1, base=other)),
    ]
    assert all("is not the model that" in line and str(lora) in line for line in lines)
    assert not (tmp_path / "new").exists() and not (tmp_path / "out").exists()


def test_an_adapter_without_digest_gives_one_warning_with_both_bases(tiny_checkpoint, lora, edit, capsys):
    load(lora, tiny_checkpoint / "llama")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and "tiny/llama" in line and str(tiny_checkpoint / "llama") in line
    edit(lora / "adapter_config.json", base_model_name_or_path=str(tiny_checkpoint / "llama"))
    load(lora, tiny_checkpoint / "llama")
    assert capsys.readouterr().err == ""


def test_a_model_given_as_its_own_base_is_called_that(lora, stage1, whole, refused, tmp_path):
    target = ["--save-model-path", tmp_path / "new"]
    for folder in (lora, stage1, whole):
        for itself in (folder, f"{folder}/../{folder.name}"):
            line = refused(merge_lora_weights.main, "--model-path", folder, "--model-base", itself, *target)
            assert f"{folder}: is given as its own base" in line
    assert "(tiny/llama)" in refused(merge_lora_weights.main, "--model-path", lora, "--model-base", lora, *target)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"sha256": 7}', "{", '{"sha256": {}, "dtype": []}', '{"sha256": {}, "dtype": "int8"}']
)
def test_a_damaged_digest_is_refused_in_one_line(place, refused, tmp_path, content):
    lora = shutil.copytree(place / "llava-lora", tmp_path / "llava-lora")
    (lora / BASE_FILE).write_text(content)
    words = ["--model-path", lora, "--model-base", place / "llama", "--save-model-path", tmp_path / "new"]
    assert str(lora / BASE_FILE) in refused(merge_lora_weights.main, *words)
