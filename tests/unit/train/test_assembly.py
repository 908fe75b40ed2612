"""The parts of a run: what is refused when a base model is loaded, and what is checked when the result is saved."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_checkpoint

from llava.model import LlavaLlamaForCausalLM
from llava.model.builder import check_base
from llava.model.config_file import read_base_config
from llava.train.arguments import load_tasks, parse_arguments
from llava.train.assembly import build_model, load_data, make_weighter, settle_vision
from llava.train.saving import check_saved
from llava.train.training_arguments import check_machine
from visatb.errors import InputError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("assembly"))


def build(place, base, *flags):
    given = ["--model_name_or_path", base, "--version", "v1", "--data_path", "d", "--output_dir", "o"]
    given += ["--mm_projector_type", "mlp2x_gelu", "--mm_use_im_patch_token", "False"]
    return build_model(*parse_arguments([*map(str, given), "--no_cuda", "True", "--report_to", "none", *flags]))[0]


def test_a_llava_model_is_tuned_further_with_its_own_projector(place):
    model = build(place, place / "llava-tiny")
    stored = torch.load(place / "mm_projector.bin", weights_only=True)
    assert torch.equal(model.model.mm_projector[0].weight, stored["model.mm_projector.0.weight"])
    assert model.get_vision_tower().is_loaded


@pytest.mark.parametrize("version, recorded", [("v1", "v1"), ("v0", "v1"), ("llava_llama_2", "llava_llama_2")])
@pytest.mark.parametrize("lora", ["True", "False"])
def test_the_template_of_the_training_is_saved_with_the_model(place, tmp_path, version, recorded, lora):
    model = build(place, place / "llava-tiny", "--version", version, "--lora_enable", lora)
    model.config.save_pretrained(tmp_path)  # as every kind of training saves it
    assert json.loads((tmp_path / "config.json").read_text())["conversation_version"] == recorded


@pytest.mark.parametrize("stage", ["lora", "stage 1"])
def test_a_llava_llama_checkpoint_is_trained_and_saved_as_llava(place, tmp_path, stage):
    folder = shutil.copytree(place / "llava-tiny", tmp_path / "later")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "llava_llama"}
    (folder / "config.json").write_text(json.dumps(config))
    projector_only = [
        "--tune_mm_mlp_adapter",
        "True",
        "--version",
        "plain",
        "--vision_tower",
        str(place / "vision_tower"),
    ]
    model = build(place, folder, *(["--lora_enable", "True"] if stage == "lora" else projector_only))
    model.config.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == "llava"


def test_an_unexpected_start_of_the_projector_is_reported(place, capsys):
    build(place, place / "llama", "--vision_tower", str(place / "vision_tower"), "--mm_vision_select_layer", "-2")
    assert "warning: the projector starts at random" in capsys.readouterr().err
    stage_1 = ("--pretrain_mm_mlp_adapter", str(place / "mm_projector.bin"))
    build(place, place / "llava-tiny", *stage_1)
    assert f"llava-tiny is replaced by {place / 'mm_projector.bin'}" in capsys.readouterr().err
    build(place, place / "llava-tiny")
    assert "warning" not in capsys.readouterr().err


def test_a_stage_1_that_is_not_there_is_refused_before_the_model_loads(place, monkeypatch):
    monkeypatch.setattr(LlavaLlamaForCausalLM, "from_pretrained", None)
    with pytest.raises(InputError, match="^nowhere.bin: no such file. Check --pretrain_mm_mlp_adapter"):
        build(place, place / "llava-tiny", "--pretrain_mm_mlp_adapter", "nowhere.bin")


def parsed(base, *flags):
    given = ["--model_name_or_path", str(base), "--data_path", "d", "--output_dir", "o", "--no_cuda", "True"]
    return parse_arguments([*given, *map(str, flags)])[0]


def test_a_llava_model_keeps_its_tower_layer_and_projector_type(place, tmp_path):
    moved = shutil.copytree(place / "vision_tower", tmp_path / "moved")
    for flags, tower in (((), place / "vision_tower"), (("--vision_tower", moved), moved)):
        model_args, config = settle_vision(parsed(place / "llava-tiny", *flags))
        assert (model_args.vision_tower, model_args.mm_projector_type) == (str(tower), "mlp2x_gelu")
        assert (model_args.mm_vision_select_layer, model_args.mm_vision_select_feature) == (-2, "patch")
        assert (config.mm_vision_tower, config.mm_vision_select_layer) == (str(tower), -2)


@pytest.mark.parametrize("start_end, patch", [(False, False), (True, True), (None, None)])
def test_a_llava_model_is_tuned_further_with_its_own_image_tokens(place, tmp_path, start_end, patch):
    base = shutil.copytree(place / "llava-tiny", tmp_path / "base")
    own = {"mm_use_im_start_end": start_end, "mm_use_im_patch_token": patch}
    content = json.loads((base / "config.json").read_text()) | own
    content = {key: value for key, value in content.items() if not (key in own and value is None)}
    (base / "config.json").write_text(json.dumps(content))
    model_args, config = settle_vision(parsed(base))
    expected = (bool(start_end), patch is not False)
    assert (model_args.mm_use_im_start_end, model_args.mm_use_im_patch_token) == expected
    assert (config.mm_use_im_start_end, config.mm_use_im_patch_token) == expected
    settle_vision(parsed(base, "--mm_use_im_start_end", "True", "--mm_use_im_patch_token", "False"))
    if start_end:
        with pytest.raises(InputError, match="^mm_use_im_start_end must be True, that of .*, got False. Leave out --"):
            settle_vision(parsed(base, "--mm_use_im_start_end", "False"))


@pytest.mark.parametrize(
    "own, given",
    [
        ("openai/clip-vit-large-patch14-336", "{here}/clip"),
        ("/the/machine/of/others/vit", "openai/clip-vit-large-patch14-336"),
        ("./checkpoints/not/here", "/nor/here"),
    ],
)
def test_a_local_copy_of_the_tower_is_accepted(place, tmp_path, own, given):
    given = given.format(here=tmp_path)
    (tmp_path / "clip").mkdir()
    base = shutil.copytree(place / "llava-tiny", tmp_path / "base")
    content = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(content | {"mm_vision_tower": own}))
    assert settle_vision(parsed(base, "--vision_tower", given))[1].mm_vision_tower == given


@pytest.mark.parametrize(
    "flag, other",
    [
        ("vision_tower", "openai/clip-vit-large-patch14"),
        ("mm_vision_select_layer", "-1"),
        ("mm_vision_select_feature", "cls_patch"),
        ("mm_projector_type", "linear"),
    ],
)
def test_settings_of_images_that_are_not_the_checkpoints_are_refused(place, flag, other):
    with pytest.raises(InputError, match=f"^{flag} must be .*, that of .*llava-tiny, got {other}. Leave out --{flag}"):
        settle_vision(parsed(place / "llava-tiny", f"--{flag}", other))


def test_a_language_model_gets_llavas_defaults_where_flags_are_left_out(place):
    model_args, _ = settle_vision(parsed(place / "llama", "--vision_tower", place / "vision_tower"))
    assert (model_args.mm_vision_select_layer, model_args.mm_vision_select_feature) == (-1, "patch")
    assert model_args.mm_projector_type == "linear"
    assert (model_args.mm_use_im_start_end, model_args.mm_use_im_patch_token) == (False, True)


def test_a_llava_model_without_projector_is_refused(place, tmp_path):
    base = shutil.copytree(place / "llava-tiny", tmp_path / "base")
    rewrite(base, lambda weights: [weights.pop(key) for key in list(weights) if "mm_projector" in key])
    tower = ("--vision_tower", str(place / "vision_tower"), "--mm_vision_select_layer", "-2")
    with pytest.raises(InputError, match="missing model.mm_projector"):
        build(place, base, *tower)
    build(place, base, *tower, "--pretrain_mm_mlp_adapter", str(place / "mm_projector.bin"))


def test_weights_of_several_tasks_need_their_benchmark():
    given = ["--model_name_or_path", "m", "--data_path", "d", "--output_dir", "o", "--visatb_weights", "1", "2"]
    _, data_args, args = parse_arguments([*given, "--no_cuda", "True", "--report_to", "none"])
    with pytest.raises(InputError, match=r"must have 1 values.* Without --benchmark \(BENCHMARK\) all records are one"):
        make_weighter(args, load_tasks(data_args.benchmark, args.num_tasks))


def rewrite(base, change):
    weights = load_file(base / "model.safetensors")
    change(weights)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})


DAMAGED_BASES = {
    "truncated": (lambda f: f.write_bytes(f.read_bytes()[:-1000]), "damaged safetensors file"),
    "empty": (lambda f: f.write_bytes(b""), "damaged safetensors file"),
    "no weights": (lambda f: f.unlink(), "no model.safetensors"),
    "another shape": (
        lambda f: rewrite(f.parent, lambda w: w.update({"model.norm.weight": torch.zeros(32)})),
        "misshapen model.norm.weight",
    ),
    "whole numbers": (
        lambda f: rewrite(f.parent, lambda w: w.update({"lm_head.weight": w["lm_head.weight"].int()})),
        "torch.int32",
    ),
    "surplus": (lambda f: rewrite(f.parent, lambda w: w.update(stray=torch.zeros(1))), "unexpected stray"),
    "unknown activation": (
        lambda f: (f.parent / "config.json").write_text(
            (f.parent / "config.json").read_text().replace('"silu"', '"boom"')
        ),
        "boom",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED_BASES)
def test_a_damaged_base_is_refused_in_one_line(place, tmp_path, damage):
    change, reported = DAMAGED_BASES[damage]
    base = shutil.copytree(place / "llama", tmp_path / "base")
    change(base / "model.safetensors")
    with pytest.raises(InputError, match=reported) as refused:
        build(place, base)
    assert "\n" not in str(refused.value)


def test_looking_at_a_base_draws_no_random_number(place):
    """What is drawn afterwards, such as a new projector, is what a seed always gave."""
    before = torch.random.get_rng_state()
    check_base(str(place / "llama"), read_base_config(place / "llama"))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_empty_missing_or_converted_tensor_is_noticed(place, tmp_path):
    model = LlavaLlamaForCausalLM.from_pretrained(place / "llava-tiny")
    model.save_pretrained(tmp_path, safe_serialization=True)
    check_saved(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = torch.empty(0)  # what ZeRO-3 leaves of a parameter that was not gathered
    del weights["model.norm.weight"]
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].half()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="3 parameters .*: model.embed_tokens.weight, model.norm.weight, lm_head"):
        check_saved(model, tmp_path)
    torch.save({"model.mm_projector.0.weight": torch.empty(0)}, tmp_path / "mm_projector.bin")
    with pytest.raises(RuntimeError, match="4 parameters"):
        check_saved(model, tmp_path)


def test_zero3_that_saves_no_whole_model_is_refused():
    training = parse_arguments(["--model_name_or_path", "m", "--data_path", "d", "--output_dir", "o"])[2]
    zero3 = SimpleNamespace(is_zero3=lambda: True, is_true=lambda key: False)
    settings = SimpleNamespace(**vars(training) | {"deepspeed": "zero3.json", "hf_deepspeed_config": zero3})
    with pytest.raises(InputError, match="zero3.json: .*stage3_gather_16bit_weights_on_model_save must be true"):
        check_machine(settings)


def test_a_template_that_the_tokenizer_cannot_mark_is_refused_early(place, monkeypatch):
    monkeypatch.setattr(LlavaLlamaForCausalLM, "from_pretrained", None)
    with pytest.raises(InputError, match="marks turns with"):
        build(place, place / "llama", "--version", "mpt")


def test_records_that_the_template_cannot_hold_are_refused_with_the_data(tmp_path):
    turns = [{"from": role, "value": "a"} for role in ("human", "gpt") * 2]
    file = tmp_path / "data.json"
    file.write_text(json.dumps([{"id": "one", "conversations": turns}]))
    given = ["--model_name_or_path", "m", "--data_path", str(file), "--output_dir", "o", "--no_cuda", "True"]
    data_args = parse_arguments(given)[1]
    assert len(load_data(data_args, ["all"], "v1")) == 1
    with pytest.raises(InputError, match=r"data.json: record 0 \(id 'one'\): a plain conversation"):
        load_data(data_args, ["all"], "plain")
