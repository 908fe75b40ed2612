"""Values of training flags that are refused before anything is loaded, and flags without effect here.

transformers accepts them all and fails late, after the model has loaded, or never.
"""

import math
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from visatb.errors import InputError
from visatb.files import read_json

FLAG_TABLE = Path(__file__).with_name("transformers_flags.json")

_NO_EVALUATION = "nothing is evaluated during training"
_FSDP = "transformers 4.31.0 cannot save the state of FSDP with this torch. Use DeepSpeed (zero3.json)"

# Flags for features that are not supported here.
REFUSED = {
    "do_eval": f"{_NO_EVALUATION}. Score answers with eval/",
    "do_predict": f"{_NO_EVALUATION}. Score answers with eval/",
    "load_best_model_at_end": f"{_NO_EVALUATION}, so no checkpoint is the best. Score several with eval/",
    "dataloader_drop_last": "the last step of an epoch uses the remaining samples, and no sample is dropped",
    "past_index": "Llama has no past state",
    "per_gpu_train_batch_size": "it is an old name. Set --per_device_train_batch_size",
    "push_to_hub_model_id": "it is an old name. Set --hub_model_id to OWNER/NAME",
    "push_to_hub_organization": "it is an old name. Set --hub_model_id to OWNER/NAME",
    "push_to_hub_token": "it is an old name. Set --hub_token",
    "save_on_each_node": "rank 0 alone writes, into a folder that all nodes see",
    "sharded_ddp": "fairscale does not work with this torch. Use DeepSpeed (zero2.json, zero3.json)",
    "fsdp_min_num_params": _FSDP,
    "fsdp_config": _FSDP,
    "fsdp_transformer_layer_cls_to_wrap": _FSDP,
    "mp_parameters": "SageMaker's model parallelism is not supported. Use DeepSpeed (zero3.json)",
    "use_ipex": "Intel's extension is not supported",
    "use_mps_device": "it is an old flag, and Apple's GPUs are used without it",
}
# Flags that do not affect the model.
IGNORED = dict.fromkeys(
    [
        "bf16_full_eval",
        "eval_accumulation_steps",
        "eval_delay",
        "eval_steps",
        "fp16_full_eval",
        "greater_is_better",
        "include_inputs_for_metrics",
        "jit_mode_eval",
        "label_names",
        "metric_for_best_model",
        "per_device_eval_batch_size",
        "per_gpu_eval_batch_size",
        "prediction_loss_only",
        "use_legacy_prediction_loop",
    ],
    _NO_EVALUATION,
) | {
    "fp16_opt_level": "it is apex's",
    "ignore_data_skip": "a resumed run always continues with the samples that it has not read",
    "length_column_name": "lengths are counted in the conversations",
    "logging_nan_inf_filter": "a loss that is not finite ends the run",
    "ray_scope": "no hyperparameters are searched",
    "remove_unused_columns": "batches contain only the model's inputs",
    "tpu_metrics_debug": "TPUs are not supported",
    "tpu_num_cores": "TPUs are not supported",
}
_OF_THE_HUB = ("hub_model_id", "hub_strategy", "hub_token", "hub_private_repo")

_AT_LEAST_0 = ("learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm", "mm_projector_lr")
_AT_LEAST_0 += ("warmup_steps", "dataloader_num_workers", "save_minutes")
_SEEDS = ("seed", "data_seed")
_COMPILE_MODES = ["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
# Optimizer -> the module it comes from, how to get it.
_PACKAGES = {
    "adamw_torch_xla": ("torch_xla", "Install torch_xla"),
    "adamw_apex_fused": ("apex", "Install https://github.com/NVIDIA/apex"),
    "adamw_anyprecision": ("torchdistx", "Install https://github.com/pytorch/torchdistx"),
}
_OF_BITSANDBYTES = ("8bit", "paged", "lion")


@cache
def flag_table() -> dict[str, Any]:
    """The flags of transformers.TrainingArguments, and the names of its optimizers and of accelerate's compilers."""
    return read_json(FLAG_TABLE)


def check_flags(given: Mapping[str, Any]) -> None:
    """Refuse unsupported flags, and values with which training can only fail.

    Args:
        given: the flags that differ from their defaults, by name.

    Raises:
        InputError: naming the flag.
    """
    table = flag_table()
    choices = {"optim": table["optimizers"], "torch_compile_mode": _COMPILE_MODES}
    choices |= dict.fromkeys(("torchdynamo", "torch_compile_backend"), table["dynamo_backends"])
    for name, value in given.items():
        if name in REFUSED:
            raise InputError(f"--{name} is not supported: {REFUSED[name]}. Leave it out.")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name} must be a finite number, got {value}. Change it.")
        if name in _AT_LEAST_0 and value is not None and value < 0:
            raise InputError(f"{name} must be at least 0, got {value}. Raise it.")
        if name in ("adam_beta1", "adam_beta2") and not 0 <= value < 1:
            raise InputError(f"{name} must be at least 0 and below 1, got {value}. Change it.")
        if name in _SEEDS and value is not None and not 0 <= value < 2**32:
            raise InputError(f"{name} must be a whole number from 0 to {2**32 - 1}, got {value}. Change it.")
        if name in choices and value.lower() not in choices[name]:
            raise InputError(f"{name} must be one of {', '.join(choices[name])}, got {value[:200]!r}. Choose one.")
        if name in ("half_precision_backend", "fp16_backend") and value == "apex":
            raise InputError(f"{name} must be auto, cuda_amp or cpu_amp, got 'apex'. Leave it out.")
    if "optim" in given:
        _check_optimizer(given["optim"], bool(given.get("no_cuda")))


def _check_optimizer(name: str, no_cuda: bool) -> None:
    module, advice = _PACKAGES.get(name, ("", ""))
    if any(part in name for part in _OF_BITSANDBYTES):
        import torch  # here, for no other flag needs it

        if no_cuda or not torch.cuda.is_available():
            raise InputError(f"optim {name} needs an NVIDIA GPU, and none is in use. Choose another, as adamw_torch.")
        module, advice = "bitsandbytes", "Run pip install -e '.[quantisation]'"
    if module and find_spec(module) is None:
        raise InputError(f"optim {name} needs {module}. {advice}, or choose another, such as adamw_torch.")


def without_effect(given: Mapping[str, Any]) -> dict[str, str]:
    """Flags without effect, with the reason.

    Args:
        given: the flags that differ from their defaults, by name.
    """
    reasons = {name: IGNORED[name] for name in given if name in IGNORED}
    if not given.get("push_to_hub"):
        reasons |= {name: "it is for --push_to_hub" for name in _OF_THE_HUB if name in given}
    if "optim_args" in given and given.get("optim") != "adamw_anyprecision":
        reasons["optim_args"] = "it is for --optim adamw_anyprecision"
    return reasons
