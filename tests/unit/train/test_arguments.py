"""Training flags: LLaVA's names, both spellings, refusals."""

import pytest

from llava.train.arguments import parse_arguments
from visatb.errors import InputError

NEEDED = ["--model_name_or_path", "m", "--data_path", "d.json", "--output_dir", "o"]


def parse(*more):
    return parse_arguments([*NEEDED, *more])


def test_dashes_underscores_and_the_references_spelling_are_one_flag():
    for flag in ("--visatb_weights", "--visatb-weights", "--VisATB_weights"):
        assert parse(flag, "0.6", "1.7")[2].visatb_weights == [0.6, 1.7]
    assert parse("--mm-projector-type", "mlp2x_gelu")[0].mm_projector_type == "mlp2x_gelu"
    assert parse("--model-max-length=99")[2].model_max_length == 99


def test_a_list_of_weights_may_be_one_word_and_no_flag_can_hide_in_it():
    assert parse("--visatb_weights=0.6, 1.7\n1e-3 2", "--seed", "3")[2].visatb_weights == [0.6, 1.7, 1e-3, 2.0]
    for given in ("1 1 1 1 --seed 5", "* 1 1 1", "", "a b", "1;2", "1 " + "x" * 999):
        with pytest.raises(InputError, match=r"visatb_weights \(VISATB_WEIGHTS\) must be numbers") as refused:
            parse(f"--visatb_weights={given}")
        assert len(str(refused.value)) < 400


def test_negative_values_are_not_taken_for_flags():
    assert parse("--mm_vision_select_layer", "-2")[0].mm_vision_select_layer == -2


def test_every_flag_that_llava_scripts_pass_is_accepted():
    flags = {
        "version": "v1",
        "freeze_backbone": "False",
        "tune_mm_mlp_adapter": "False",
        "vision_tower": "x",
        "mm_vision_select_layer": "-2",
        "mm_vision_select_feature": "patch",
        "pretrain_mm_mlp_adapter": "x.bin",
        "mm_projector_type": "linear",
        "mm_use_im_start_end": "False",
        "mm_use_im_patch_token": "False",
        "lazy_preprocess": "True",
        "image_folder": "x",
        "image_aspect_ratio": "pad",
        "freeze_mm_mlp_adapter": "False",
        "model_max_length": "2048",
        "double_quant": "True",
        "quant_type": "nf4",
        "bits": "16",
        "lora_enable": "False",
        "lora_r": "64",
        "lora_alpha": "16",
        "lora_dropout": "0.05",
        "lora_weight_path": "",
        "lora_bias": "none",
        "mm_projector_lr": "2e-5",
        "group_by_modality_length": "True",
        "num_tasks": "8",
        "weight_method": "EW",
    }
    parse(*[word for name, value in flags.items() for word in (f"--{name}", value)])


@pytest.mark.parametrize(
    "given, message",
    [
        (["--nonsense", "1"], "nonsense"),
        (["--visatb_weight", "1"], "visatb_weight"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'. See --help"),
        (["--image_aspect_ratio", "round"], "image_aspect_ratio must be pad or square"),
        (["--bad_image", "zero"], "bad_image must be"),
        (["--resume_from_checkpoint", "x"], "the same command resumes"),
        (["--model_max_length", "0"], "model_max_length must be at least 1"),
        (["--per_device_train_batch_size", "0"], "per_device_train_batch_size must be at least 1"),
        (["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps must be at least 1"),
        (["--num_train_epochs", "0"], "num_train_epochs must be above 0"),
        (["--evaluation_strategy", "steps"], "evaluation_strategy must be no"),
        (["--tune_mm_mlp_adapter", "True"], "Set --vision_tower"),
        (
            ["--tune_mm_mlp_adapter", "True", "--lora_enable", "True"],
            "the projector alone. Leave out it or --lora_enable",
        ),
        (["--tune_mm_mlp_adapter", "True", "--freeze_mm_mlp_adapter", "True"], "it or --freeze_mm_mlp_adapter"),
        (["--max_step", "3"], "^unknown arguments: --max_step 3. See --help.$"),
        (["--lora_weight_path", "x"], "Set --lora_enable True"),
        (["--lora_enable", "True", "--lora_weight_path", "/no/such/folder"], "/no/such/folder: no such folder"),
        (["--lora_enable", "True", "--lora_r", "0"], "lora_r must be at least 1"),
        (["--lora_enable", "True", "--lora_dropout", "1"], "lora_dropout must be at least 0 and below 1"),
        (["--lora_enable", "True", "--lora_bias", "some"], "lora_bias must be none, all or lora_only"),
        (["--bits", "5"], "bits must be 4, 8 or 16"),
        (["--bits", "4"], "a model in 4 bits cannot be trained itself. Set --lora_enable True"),
        (["--bits", "4", "--lora_enable", "True", "--quant_type", "int4"], "quant_type must be fp4 or nf4"),
        (["--bits", "4", "--lora_enable", "True", "--no_cuda", "True"], "--bits 4 needs an NVIDIA GPU"),
    ],
)
def test_unknown_flags_and_values_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        parse(*given)


@pytest.mark.parametrize("missing", ["--model_name_or_path", "--data_path", "--output_dir"])
def test_missing_flags_are_refused_by_name(missing):
    n = NEEDED.index(missing)
    with pytest.raises(InputError, match=f"{missing} must be given"):
        parse_arguments(NEEDED[:n] + NEEDED[n + 2 :])
