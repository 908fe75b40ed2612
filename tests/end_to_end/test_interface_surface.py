"""What users have in their fingers: every `--help`, every flag in both spellings, every name at its address.

The lists are literal on purpose. One that gets shorter breaks somebody's script; one that gets longer is a decision.
"""

import argparse
import importlib
import re
import runpy
import subprocess
import sys
from dataclasses import fields

import pytest
import transformers

from llava.train import arguments

NO_COMMANDS = ("tests", "perf")  # folders whose programs are for developers

# Flags that LLaVA's and the reference's scripts pass to the training, in LLaVA's spelling.
TRAINING_FLAGS = {
    "model_name_or_path": "base",
    "version": "v1",
    "freeze_backbone": "False",
    "tune_mm_mlp_adapter": "False",
    "vision_tower": "tower",
    "mm_vision_select_layer": "-2",
    "mm_vision_select_feature": "patch",
    "pretrain_mm_mlp_adapter": "mm_projector.bin",
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_start_end": "False",
    "mm_use_im_patch_token": "False",
    "data_path": "train.json",
    "lazy_preprocess": "True",
    "image_folder": "images",
    "image_aspect_ratio": "pad",
    "freeze_mm_mlp_adapter": "False",
    "model_max_length": "2048",
    "double_quant": "True",
    "quant_type": "nf4",
    "bits": "16",
    "lora_enable": "True",
    "lora_r": "128",
    "lora_alpha": "256",
    "lora_dropout": "0.05",
    "lora_weight_path": "",
    "lora_bias": "none",
    "mm_projector_lr": "2e-5",
    "group_by_modality_length": "True",
    "num_tasks": "3",
    "weight_method": "EW",
    "visatb_weights": "1 2 3",
    "cache_dir": "cache",
    "remove_unused_columns": "False",
    "optim": "adamw_torch",
    # transformers.TrainingArguments, as LLaVA's scripts pass them
    "bf16": "False",
    "fp16": "False",
    "tf32": "False",
    "output_dir": "out",
    "num_train_epochs": "1",
    "per_device_train_batch_size": "16",
    "per_device_eval_batch_size": "4",
    "gradient_accumulation_steps": "1",
    "evaluation_strategy": "no",
    "save_strategy": "steps",
    "save_steps": "50000",
    "save_total_limit": "1",
    "learning_rate": "2e-5",
    "weight_decay": "0.",
    "warmup_ratio": "0.03",
    "lr_scheduler_type": "cosine",
    "logging_steps": "1",
    "gradient_checkpointing": "True",
    "dataloader_num_workers": "4",
    "report_to": "none",
    "seed": "0",
    "group_by_length": "False",
    "max_steps": "-1",
    "max_grad_norm": "1.0",
    "adam_beta2": "0.999",
    "ddp_find_unused_parameters": "False",
}

# The flags of the training that are not transformers' own. A new one is a decision: write it down here.
OUR_TRAINING_FLAGS = """
    model_name_or_path version freeze_backbone tune_mm_mlp_adapter vision_tower mm_vision_select_layer
    mm_vision_select_feature pretrain_mm_mlp_adapter mm_projector_type mm_use_im_start_end mm_use_im_patch_token
    data_path image_folder image_aspect_ratio lazy_preprocess benchmark bad_image
    cache_dir model_max_length double_quant quant_type bits lora_enable lora_r lora_alpha lora_dropout
    lora_weight_path lora_bias mm_projector_lr group_by_modality_length freeze_mm_mlp_adapter
    num_tasks weight_method visatb_weights loss_normalization decay_norm_weights
    weight_window weight_temperature weight_lr weight_reference_history save_minutes
    padded_batches task_sampling
"""

_ASKING = {
    "model-path": "m",
    "model-base": "b",
    "conv-mode": "vicuna_v1",
    "temperature": "0.2",
    "top_p": "0.9",
    "num_beams": "1",
    "max_new_tokens": "16",
}
_CHUNKS = {"num-chunks": "2", "chunk-idx": "1"}
# Flags of the other commands: those of LLaVA and of the reference. None: a flag without a value.
COMMAND_FLAGS = {
    "inference_visatb.py": _ASKING | _CHUNKS | {"image-folder": "i", "question-file": "q", "answers-folder": "a"},
    "llava/eval/model_vqa_loader.py": _ASKING
    | _CHUNKS
    | {"image-folder": "i", "question-file": "q.jsonl", "answers-file": "a.jsonl"},
    "llava/eval/run_llava.py": _ASKING | {"image-file": "x.png", "query": "What?", "sep": ","},
    "llava/serve/cli.py": {
        "model-path": "m",
        "model-base": "b",
        "image-file": "x.png",
        "device": "cpu",
        "conv-mode": "vicuna_v1",
        "temperature": "0.2",
        "max-new-tokens": "512",
        "load-8bit": None,
        "load-4bit": None,
        "debug": None,
        "image-aspect-ratio": "pad",
    },
    "eval/caption.py": {"answers-file": "a.json"},
    "eval/caption_list.py": {"answers-file": "a.json"},
    "eval/grounding.py": {"answers-file": "a.json"},
    "eval/grounding_bbox.py": {"answers-file": "a.json"},
    "eval/qa.py": {"answers-file": "a.json"},
    "weighting_visatb.py": {"scores": "s.csv", "benchmark": "b.yaml", "temperature": "0.5", "alpha": ".2 .3 .5"},
}

NAMES = {
    "llava": "LlavaLlamaForCausalLM",
    "llava.constants": "IGNORE_INDEX IMAGE_TOKEN_INDEX DEFAULT_IMAGE_TOKEN DEFAULT_IMAGE_PATCH_TOKEN "
    "DEFAULT_IM_START_TOKEN DEFAULT_IM_END_TOKEN IMAGE_PLACEHOLDER LOGDIR "
    "CONTROLLER_HEART_BEAT_EXPIRATION WORKER_HEART_BEAT_INTERVAL",
    "llava.conversation": "Conversation SeparatorStyle conv_templates default_conversation conv_vicuna_v0 "
    "conv_vicuna_v1 conv_llava_v0 conv_llava_v1 conv_llava_plain conv_llama_2 conv_llava_llama_2 conv_mpt",
    "llava.mm_utils": "process_images expand2square tokenizer_image_token get_model_name_from_path "
    "KeywordsStoppingCriteria load_image_from_base64",
    "llava.utils": "disable_torch_init build_logger server_error_msg",
    "llava.model": "LlavaLlamaForCausalLM LlavaConfig",
    "llava.model.builder": "load_pretrained_model",
    "llava.model.llava_arch": "LlavaMetaModel LlavaMetaForCausalLM",
    "llava.model.language_model.llava_llama": "LlavaConfig LlavaLlamaModel LlavaLlamaForCausalLM",
    "llava.model.multimodal_encoder.builder": "build_vision_tower",
    "llava.model.multimodal_encoder.clip_encoder": "CLIPVisionTower",
    "llava.model.multimodal_projector.builder": "build_vision_projector IdentityMap",
    "llava.train.train": "train ModelArguments DataArguments TrainingArguments LazySupervisedDataset",
    "llava.train.train_mem": "train",
    "llava.train.llava_trainer": "LLaVATrainer",
    "llava.eval.model_vqa_loader": "main get_chunk",
    "llava.eval.run_llava": "eval_model image_parser load_image load_images",
    "llava.serve.cli": "main load_image",
    "transformers_patch": "Trainer LlamaForCausalLM Weighter ComputedWeighting EqualWeighting build_weighter "
    "patch unpatch",
}


def commands(repository):
    """Every program of the repository, relative to it."""
    found = []
    for path in repository.rglob("*.py"):
        inside = path.relative_to(repository)
        if inside.parts[0] in NO_COMMANDS or any(part.startswith(".") for part in inside.parts):
            continue
        if 'if __name__ == "__main__":' in path.read_text():
            found.append(inside.as_posix())
    return sorted(found)


class Parsed(Exception):  # noqa: N818 - not an error: the sign that parsing succeeded
    """Raised in place of running a command; holds the parser."""


def run_command(repository, command, argv, monkeypatch):
    """Run a program as its user does, but in this process."""
    monkeypatch.setattr(sys, "argv", [command, *argv])
    monkeypatch.setenv("COLUMNS", "120")
    if command.startswith("eval/") or "/" not in command:
        runpy.run_path(str(repository / command), run_name="__main__")
    else:
        runpy.run_module(command.removesuffix(".py").replace("/", "."), run_name="__main__")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_every_command_has_help_with_an_example_and_defaults(repository, monkeypatch, capsys):
    found = commands(repository)
    assert {"inference_visatb.py", "llava/train/train.py", "eval/qa.py", "scripts_visatb/workflow/run.py"} < set(found)
    parsers = []
    printed = argparse.ArgumentParser.print_help
    monkeypatch.setattr(
        argparse.ArgumentParser, "print_help", lambda self, *a, **k: parsers.append(self) or printed(self, *a, **k)
    )
    for command in found:
        with pytest.raises(SystemExit) as ended:
            run_command(repository, command, ["--help"], monkeypatch)
        text = capsys.readouterr().out
        assert ended.value.code == 0, command
        assert re.search(r"(python|snakemake) (-m )?[\w/.]+ ", text), f"{command}: no example"
        for action in parsers[-1]._actions:
            assert action.help, f"{command}: {action.option_strings} says nothing"
            if action.default not in (None, argparse.SUPPRESS):
                shown = re.escape(re.sub(r"\s", "", str(action.default)))
                reported = re.search(rf"\((default:)?{shown}\)", re.sub(r"\s", "", text))
                assert reported, f"{command}: {action.option_strings} hides its default"
    assert len(parsers) == len(found)


def test_every_variable_of_the_training_scripts_is_explained(repository):
    explained = (repository / "docs" / "training.md").read_text()
    for script in sorted((repository / "scripts_visatb").glob("*.sh")):
        if script.name in ("setup.sh", "launch.sh"):
            continue
        variables = set(re.findall(r"\$\{([A-Z_]+):[-?]", script.read_text()))
        lacking = sorted(name for name in variables if f"`{name}`" not in explained)
        assert not lacking, f"{script.name}: docs/training.md does not explain {', '.join(lacking)}"


def test_a_script_without_its_variables_ends_with_what_to_set(repository):
    scripts = [path for path in (repository / "scripts_visatb").glob("*.sh") if path.read_text().startswith("#!")]
    assert len(scripts) >= 8
    for script in scripts:
        done = subprocess.run(["bash", str(script)], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
        assert done.returncode == 2 and done.stderr.startswith("error: DATA_PATH must be "), script.name
        assert "set DATA_PATH=" in done.stderr and done.stderr.count("\n") == 1, script.name


def spelled(flags, dashes):
    argv = []
    for flag, value in flags.items():
        argv.append("--" + (flag.replace("_", "-") if dashes else flag.replace("-", "_")))
        argv += [] if value is None else value.split() or [""]
    return argv


@pytest.mark.parametrize("dashes", [False, True])
def test_the_training_takes_every_flag_of_llava_in_both_spellings(dashes):
    model, data, training = arguments.parse_arguments(spelled(TRAINING_FLAGS, dashes))
    assert (model.mm_vision_select_layer, data.image_folder, training.lora_r) == (-2, "images", 128)
    assert training.visatb_weights == [1.0, 2.0, 3.0] and training.group_by_modality_length
    theirs = spelled(TRAINING_FLAGS, dashes)
    theirs[theirs.index("--visatb-weights" if dashes else "--visatb_weights")] = (
        "--VisATB-weights" if dashes else "--VisATB_weights"
    )
    assert arguments.parse_arguments(theirs)[2].visatb_weights == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("dashes", [False, True])
@pytest.mark.parametrize("flags", [{"bits": "4"}, {"bits": "8"}, {"tune_mm_mlp_adapter": "True"}, {"version": "plain"}])
def test_the_values_that_llavas_scripts_give_are_known(flags, dashes):
    """Quantised bits may lack their GPU here; that is then said, and no flag or value is unknown."""
    base = {"model_name_or_path": "base", "data_path": "d.json", "output_dir": "o", "vision_tower": "t"}
    base |= {"report_to": "none"} | ({"lora_enable": "True"} if "bits" in flags else {})
    try:
        arguments.parse_arguments(spelled(base | flags, dashes))
    except ValueError as refusal:
        assert "bits" in flags and ("NVIDIA GPU" in str(refusal) or "bitsandbytes" in str(refusal))


def test_the_flags_of_the_training_are_these_and_no_others():
    own = {field.name for group in (arguments.ModelArguments, arguments.DataArguments) for field in fields(group)}
    own |= {field.name for field in fields(arguments.TrainingArguments)}
    own -= {field.name for field in fields(transformers.TrainingArguments)}
    expected = set(OUR_TRAINING_FLAGS.split())
    assert own == expected, f"new: {sorted(own - expected)}, gone: {sorted(expected - own)}"
    assert expected <= own | set(TRAINING_FLAGS)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("dashes", [False, True])
@pytest.mark.parametrize("command", COMMAND_FLAGS)
def test_every_flag_of_the_other_commands_is_taken_in_both_spellings(repository, command, dashes, monkeypatch):
    real = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *args, **kwargs):
        raise Parsed(real(self, *args, **kwargs))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(Parsed) as stopped:
        run_command(repository, command, spelled(COMMAND_FLAGS[command], dashes), monkeypatch)
    given = vars(stopped.value.args[0])
    for flag in COMMAND_FLAGS[command]:
        assert given[flag.replace("-", "_")] not in (None, False), f"{command} drops --{flag}"


def test_what_the_migration_page_points_to_is_there(repository):
    page = (repository / "docs" / "migrating.md").read_text()
    table = page.partition("## Where things are")[2].partition("## What is the same")[0]
    pointed = 0
    for row in re.findall(r"^\|.*\|(.*)\|$", table, flags=re.MULTILINE):
        for word in re.findall(r"`(?:python )?(?:-m )?([\w./]+)[^`]*`", row):
            path = word if "/" in word or word.endswith(".py") else word.replace(".", "/") + ".py"
            if "/" in path[1:]:  # "/image" is a command of the chat
                assert (repository / path).exists(), word
                pointed += 1
    assert pointed > 15
    for flag in re.findall(r"`--(\w+) \w+`", page.partition("## To get")[2].partition("## What differs")[0]):
        assert flag in OUR_TRAINING_FLAGS.split(), flag


@pytest.mark.parametrize("module", NAMES)
def test_names_are_importable_where_llavas_users_look_for_them(module):
    found = importlib.import_module(module)
    lacking = [name for name in NAMES[module].split() if not hasattr(found, name)]
    assert not lacking, f"{module} lacks {', '.join(lacking)}"


def test_constants_are_llavas():
    from llava import constants

    assert (constants.IGNORE_INDEX, constants.IMAGE_TOKEN_INDEX) == (-100, -200)
    tokens = (
        constants.DEFAULT_IMAGE_TOKEN,
        constants.DEFAULT_IMAGE_PATCH_TOKEN,
        constants.DEFAULT_IM_START_TOKEN,
        constants.DEFAULT_IM_END_TOKEN,
    )
    assert tokens == ("<image>", "<im_patch>", "<im_start>", "<im_end>")
