"""What affects the result of a LLaVA training; its output folder is `transformers_patch.run_folder`."""

import dataclasses
import os
from typing import Any

from llava.train.arguments import DataArguments, ModelArguments, TrainingArguments
from transformers_patch.run_folder import (
    CONTENT,
    LOG_FILE,
    RUN_FILE,
    RunFolder,
    content_of,
    deepspeed_settings,
    leave_together,
    on_first_rank,
    plain,
    sha256_of_file,
)
from transformers_patch.weight_method import strategy_file

__all__ = ["CONTENT", "LOG_FILE", "RUN_FILE", "RunFolder", "fingerprint", "leave_together", "on_first_rank"]

# Settings that may change between two starts of a run: output, logging, how work is split.
_FREE = {
    "output_dir overwrite_output_dir logging_dir log_level log_level_replica log_on_each_node logging_strategy "
    "logging_first_step logging_steps logging_nan_inf_filter save_strategy save_steps save_minutes save_total_limit "
    "run_name disable_tqdm report_to dataloader_num_workers dataloader_pin_memory local_rank _n_gpu no_cuda "
    "use_mps_device ddp_backend ddp_timeout ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers "
    "deepspeed fsdp fsdp_config resume_from_checkpoint push_to_hub hub_token hub_model_id hub_strategy "
    "hub_private_repo cache_dir per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps "
    "gradient_checkpointing lazy_preprocess push_to_hub_token skip_memory_metrics data_path image_folder benchmark "
    "ignore_data_skip"
}
_FREE = frozenset(" ".join(_FREE).split())


def fingerprint(
    model: ModelArguments, data: DataArguments, training: TrainingArguments, world_size: int, task_names: list[str]
) -> dict[str, Any]:
    """Everything that affects the result of a run, by name, as JSON values."""
    shape: dict[str, Any] = {"data": sha256_of_file(data.data_path), "tasks": task_names}
    for arguments in (model, data, training):
        for field in dataclasses.fields(arguments):
            if field.name not in _FREE:
                shape[field.name] = plain(getattr(arguments, field.name))
    shape["global_batch"] = (
        training.per_device_train_batch_size * training.gradient_accumulation_steps * max(world_size, 1)
    )
    # transformers keeps it there, and takes it from there when neither --bf16 nor --fp16 is given (accelerate launch).
    shape["mixed_precision"] = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if training.loss_normalization == "batch":
        shape["per_device_train_batch_size"] = training.per_device_train_batch_size
    for name in ("model_name_or_path", "vision_tower", "pretrain_mm_mlp_adapter"):
        shape[name + CONTENT] = content_of(getattr(model, name))
    shape["lora_weight_path" + CONTENT] = content_of(training.lora_weight_path)
    shape["deepspeed" + CONTENT] = deepspeed_settings(training.deepspeed)
    shape["weight_method" + CONTENT] = content_of(strategy_file(training.weight_method))
    return shape
