"""Each of transformers' training flags is used here, refused, or reported as one without effect."""

import dataclasses
import typing

import pytest
import transformers
from transformers.integrations import INTEGRATION_TO_CALLBACK
from transformers.training_args import OptimizerNames

from llava.train.arguments import DataArguments, ModelArguments, TrainingArguments, parse_arguments
from llava.train.assembly import make_weighter
from llava.train.flags import IGNORED, REFUSED
from visatb.errors import InputError

NEEDED = ["--model_name_or_path", "m", "--data_path", "d.json", "--output_dir", "o", "--no_cuda", "True"]
# Read by a training. A field of a later transformers belongs here only once something reads it.
USED = """
output_dir overwrite_output_dir do_train evaluation_strategy per_device_train_batch_size gradient_accumulation_steps
learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm num_train_epochs max_steps
lr_scheduler_type warmup_ratio warmup_steps log_level log_level_replica log_on_each_node logging_dir logging_strategy
logging_first_step logging_steps save_strategy save_steps save_total_limit save_safetensors no_cuda seed data_seed bf16
fp16 half_precision_backend fp16_backend tf32 local_rank ddp_backend xpu_backend debug dataloader_num_workers run_name
disable_tqdm fsdp deepspeed label_smoothing_factor optim optim_args adafactor group_by_length report_to
ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_timeout dataloader_pin_memory
skip_memory_metrics push_to_hub resume_from_checkpoint hub_model_id hub_strategy hub_token hub_private_repo
gradient_checkpointing auto_find_batch_size full_determinism torchdynamo torch_compile torch_compile_backend
torch_compile_mode _n_gpu
"""
# Read, to be refused, once the arguments are there: values that ask for what is not here.
REFUSED_LATER = {"fsdp": "full_shard", "label_smoothing_factor": "0.1", "auto_find_batch_size": "True"}
REFUSED_LATER |= {"evaluation_strategy": "epoch", "resume_from_checkpoint": "x"}
FLOATS = [
    field.name
    for field in dataclasses.fields(TrainingArguments)
    if field.type is float or float in typing.get_args(field.type)
]
FIELDS = {field.name: field for group in (ModelArguments, DataArguments) for field in dataclasses.fields(group)}
FIELDS |= {field.name: field for field in dataclasses.fields(TrainingArguments)}


def parse(*more):
    return parse_arguments([*NEEDED, "--report_to", "none", *more])


def other_value(name):
    """A value of the field's type that is not its default."""
    field = FIELDS[name]
    kinds = {field.type, *typing.get_args(field.type)}
    if bool in kinds:
        return "False" if field.default is True else "True"
    return "7" if {int, float} & kinds else "x"


def test_every_flag_of_transformers_is_used_refused_or_reported():
    fields = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    used = set(USED.split())
    assert fields == used | REFUSED.keys() | IGNORED.keys()
    assert not used & REFUSED.keys() and not used & IGNORED.keys() and not REFUSED.keys() & IGNORED.keys()


@pytest.mark.parametrize("name", REFUSED)
def test_a_flag_that_is_not_supported_is_refused_with_its_reason(name):
    with pytest.raises(InputError, match=f"^--{name} is not supported: .*Leave it out.$"):
        parse(f"--{name}", other_value(name))


@pytest.mark.parametrize("name", REFUSED_LATER)
def test_flags_that_would_change_the_loss_are_refused_early(name):
    with pytest.raises(InputError, match=name):
        make_weighter(parse(f"--{name}", REFUSED_LATER[name])[2], ["all"])


def test_flags_without_effect_are_reported_once_each(capsys):
    given = {name: other_value(name) for name in IGNORED if name != "fp16_full_eval"}  # which excludes bf16's
    given |= {"hub_token": "x", "hub_model_id": "a/b", "optim_args": "a=b"}
    with pytest.warns(FutureWarning):  # transformers' own, of tpu_metrics_debug
        parse(*[word for name, value in given.items() for word in (f"--{name}", value)])
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.split()[1] for line in lines) == sorted(f"--{name}" for name in given)
    assert all(line.startswith("warning: --") and " has no effect: " in line for line in lines)


def test_llavas_own_flags_and_defaults_are_not_reported(capsys):
    parse("--do_train", "True", "--evaluation_strategy", "no", "--dataloader_drop_last", "False", "--past_index", "-1")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_float_that_is_not_finite_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"^(--)?{name} ") as refused:
        parse(f"--{name}={value}")
    assert "finite" in str(refused.value) or name in REFUSED


def test_every_float_flag_is_among_those_tried():
    assert len(FLOATS) >= 15 and {"learning_rate", "mm_projector_lr", "lora_dropout", "save_steps"} < set(FLOATS)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("learning_rate", "-1e-5", "at least 0"),
        ("weight_decay", "-1", "at least 0"),
        ("max_grad_norm", "-1", "at least 0"),
        ("adam_epsilon", "-1", "at least 0"),
        ("mm_projector_lr", "-1", "at least 0"),
        ("adam_beta1", "1", "below 1"),
        ("adam_beta2", "-0.1", "below 1"),
        ("seed", "-1", "from 0 to 4294967295"),
        ("data_seed", "99999999999", "from 0 to 4294967295"),
        ("dataloader_num_workers", "-2", "at least 0"),
        ("optim", "adam", "one of adamw_hf"),
        ("torch_compile_backend", "fast", "one of no, eager"),
        ("torch_compile_mode", "fast", "one of default"),
        ("half_precision_backend", "apex", "auto, cuda_amp or cpu_amp"),
    ],
)
def test_a_value_with_which_a_training_could_only_fail_is_refused(name, value, message):
    with pytest.raises(InputError, match=f"^{name} must be .*{message}"):
        parse(f"--{name}={value}")


@pytest.mark.parametrize("name", [name.value for name in OptimizerNames])
def test_an_optimizer_is_there_or_refused_with_what_it_needs(name):
    """Whichever packages are installed: what is accepted can be made."""
    try:
        args = parse("--optim", name)[2]
    except InputError as refused:
        assert str(refused).startswith(f"optim {name} needs "), refused
        return
    transformers.Trainer.get_optimizer_cls_and_kwargs(args)


@pytest.mark.parametrize("name", ["adamw_bnb_8bit", "paged_adamw_8bit", "lion_32bit", "paged_lion_32bit"])
def test_bitsandbytes_optimizers_are_refused_without_gpu_or_package(name, monkeypatch):
    with pytest.raises(InputError, match=f"^optim {name} needs an NVIDIA GPU"):
        parse("--optim", name)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("llava.train.flags.find_spec", lambda module: None)
    with pytest.raises(InputError, match=r"needs bitsandbytes. Run pip install -e '.\[quantisation\]'"):
        parse_arguments([*NEEDED[:-2], "--optim", name])


@pytest.mark.parametrize("name", INTEGRATION_TO_CALLBACK)
def test_a_tracker_is_there_or_refused_with_its_package(name):
    args = parse("--report_to", name)[2]
    try:
        make_weighter(args, ["all"])
    except InputError as refused:
        assert f"report_to {name} needs a package. Run pip install " in str(refused)
        return
    INTEGRATION_TO_CALLBACK[name]()
