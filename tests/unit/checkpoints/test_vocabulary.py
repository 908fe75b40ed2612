"""Tokenizers and embeddings of different sizes: too many pieces are refused, padded embeddings are kept."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_dataset
from transformers import LlamaTokenizer

from llava.model import LlavaLlamaForCausalLM
from llava.model.builder import load_pretrained_model
from llava.serve import cli
from llava.train.arguments import parse_arguments
from llava.train.assembly import build_model
from llava.train.train import train
from scripts_visatb.checkpoints import convert_hf, merge_lora_weights
from visatb.errors import InputError

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
MESSAGE = r"the tokenizer has 39\d pieces, the model 390 embeddings \(none for '<\|extra\|>'\)"


def add_tokens(folder, *tokens):
    tokenizer = LlamaTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    tokenizer.save_pretrained(folder)


def pad(folder, edit, rows=400):
    """Give a checkpoint more embeddings than it has pieces."""
    weights = load_file(folder / "model.safetensors")
    for name in (EMBEDDINGS, HEAD):
        more = rows - len(weights[name])
        weights[name] = torch.cat([weights[name], torch.full((more, weights[name].shape[1]), 9.0)])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder / "config.json", vocab_size=rows)


def load(path, base=None):
    return load_pretrained_model(str(path), base and str(base), path.name, device="cpu")


def arguments(base, place, *flags):
    given = ["--model_name_or_path", base, "--version", "v1", "--data_path", "d", "--output_dir", "o"]
    given += ["--vision_tower", place / "vision_tower", "--mm_projector_type", "mlp2x_gelu"]
    given += ["--mm_vision_select_layer", "-2", "--no_cuda", "True", "--report_to", "none"]
    return parse_arguments([*map(str, given), "--mm_use_im_patch_token", "False", *map(str, flags)])


@pytest.fixture
def base(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint / "llama", tmp_path / "llama")


def test_loading_refuses_more_pieces_than_embeddings(tiny_checkpoint, whole, stage1, lora, base):
    for folder in (whole, base):
        add_tokens(folder, "<|extra|>")
    for path, on in ((whole, None), (base, None), (stage1, base), (lora, base)):
        with pytest.raises(InputError, match=f"^{on or path}: {MESSAGE}. Use the tokenizer files"):
            load(path, on)
    for file in base.glob("*token*"):  # a tokenizer beside the adapter comes before the base's
        shutil.copy(file, lora)
    with pytest.raises(InputError, match=f"^{lora}: {MESSAGE}"):
        load(lora, tiny_checkpoint / "llama")


def test_commands_refuse_more_pieces_than_embeddings(whole, lora, base, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(LlavaLlamaForCausalLM, "from_pretrained", None)
    for folder in (whole, base):
        add_tokens(folder, "<|extra|>")
    target = ["--save-model-path", tmp_path / "new"]
    refused(merge_lora_weights.main, "--model-path", lora, "--model-base", base, *target)
    assert "391 tokens, but 390" in refused(convert_hf.main, "--to-hf", "--model-path", whole, *target)
    assert "the model 390" in refused(cli.main, "--model-path", whole, "--conv-mode", "v1", "--device", "cpu")
    data = make_tiny_dataset(tmp_path / "data", 6)
    words = ["--data_path", data, "--image_folder", data.parent / "images", "--output_dir", tmp_path / "out"]
    words += ["--no_cuda", "True", "--report_to", "none"]
    assert "the model 390" in refused(train, "--model_name_or_path", whole, "--version", "v1", *words)
    assert not (tmp_path / "new").exists() and not (tmp_path / "out").exists()


def test_tokens_of_llava_without_rows_need_the_flag_that_makes_them(tiny_checkpoint, base):
    add_tokens(base, "<im_start>", "<im_end>")
    with pytest.raises(InputError, match=r"has 392 pieces, the model 390 embeddings \(none for '<im_start>'\)"):
        build_model(*arguments(base, tiny_checkpoint))
    model = build_model(*arguments(base, tiny_checkpoint, "--mm_use_im_start_end", "True"))[0]
    assert len(model.get_input_embeddings().weight) == 392


@pytest.mark.parametrize("flags", [(), ("--mm_use_im_patch_token", "True", "--mm_use_im_start_end", "True")])
def test_training_keeps_padded_embeddings(tiny_checkpoint, base, edit, flags):
    pad(base, edit)
    model, tokenizer, *_ = build_model(*arguments(base, tiny_checkpoint, *flags))
    rows, end = model.get_input_embeddings().weight.detach(), len(tokenizer)
    assert len(rows) == model.config.vocab_size == 400 and end == 390 + (3 if flags else 0)
    if flags:
        torch.testing.assert_close(rows[391:393], rows[:391].mean(0).expand(2, -1))
    assert (rows[end:] == 9).all()


def test_a_vocabulary_that_grew_into_padding_is_saved_with_the_adapter(tiny_checkpoint, base, edit):
    pad(base, edit)
    groups = arguments(base, tiny_checkpoint, "--lora_enable", "True", "--mm_use_im_start_end", "True")
    assert build_model(*groups).vocabulary_grew
    groups = arguments(base, tiny_checkpoint, "--lora_enable", "True")
    assert not build_model(*groups).vocabulary_grew


def test_padded_embeddings_load(whole, edit):
    pad(whole, edit)
    tokenizer, model, _, _ = load(whole)
    assert len(tokenizer) == 390 and len(model.get_input_embeddings().weight) == 400
