"""LoRA and QLoRA: low-rank adapters trained on a frozen language model, which QLoRA quantises to 4 or 8 bits.

`llava.model.adapter` describes the folder of such a training.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.deepspeed import is_deepspeed_zero3_enabled

from llava.model.adapter import (
    ADAPTER_CONFIG,
    LEFT_ALONE,
    fill_adapter,
    linear_names,
    read_adapter,
    read_others,
    save_adapter,
    stored_name,
    unwrapped,
    wrap,
)
from llava.model.adapter_config import read_adapter_config
from llava.model.base_digest import base_digest, check_base_of
from llava.model.gathering import gathered
from llava.train.arguments import TrainingArguments
from transformers_patch.checkpoints import kind_of
from visatb.errors import InputError

EMBEDDINGS = ("embed_tokens", "lm_head")
PROJECTOR = "mm_projector"
# Settings of adapters that can be loaded and merged, but not trained further: their tensors have another meaning.
_OTHER_KINDS = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")


def half_dtype(args: TrainingArguments) -> torch.dtype:
    """The dtype that --bf16 or --fp16 asks for, else float32."""
    if args.bf16:
        return torch.bfloat16
    return torch.float16 if args.fp16 else torch.float32


def loading_arguments(args: TrainingArguments) -> dict[str, Any]:
    """Arguments of from_pretrained for a frozen base: its dtype and quantisation."""
    if not args.lora_enable and args.bits == 16:
        return {}
    dtype = half_dtype(args)
    if args.bits == 16:
        return {"torch_dtype": dtype}
    from transformers import BitsAndBytesConfig

    quantisation = BitsAndBytesConfig(
        load_in_4bit=args.bits == 4,
        load_in_8bit=args.bits == 8,
        llm_int8_skip_modules=list(LEFT_ALONE),
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=args.double_quant,
        bnb_4bit_quant_type=args.quant_type,
    )
    return {"torch_dtype": dtype, "device_map": {"": args.device}, "quantization_config": quantisation}


def prepare_quantised(model: PreTrainedModel, args: TrainingArguments) -> None:
    """Freeze a quantised model and give what is not quantised LLaVA's dtypes.

    Norms and projector become float32; with --bf16, embeddings and lm_head stay bfloat16.
    """
    from peft import prepare_model_for_kbit_training

    prepare_model_for_kbit_training(model, use_gradient_checkpointing=args.gradient_checkpointing)
    if args.bf16:
        for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
            embeddings.to(torch.bfloat16)
    for module in model.modules():
        state = getattr(module, "state", None)
        if type(module).__name__ == "Linear8bitLt" and not hasattr(state, "memory_efficient_backward"):
            state.memory_efficient_backward = False  # peft 0.13.2 hands it on; current bitsandbytes has dropped it
    model.register_load_state_dict_post_hook(_pass_over_quantisation_state)
    # The saved adapter belongs to the base as it is on the disk.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _pass_over_quantisation_state(_model: nn.Module, keys: Any) -> None:
    """Let strict loading, as in DeepSpeed's resume, ignore the scales that bitsandbytes saves but never reads."""
    keys.unexpected_keys[:] = [key for key in keys.unexpected_keys if ".base_layer.weight." not in key]


def note_base(base: str, weights: Mapping[str, torch.Tensor], args: TrainingArguments) -> dict[str, Any] | None:
    """The base's digest, to be saved with the adapter on rank 0; checks that an adapter to start from is the base's.

    Args:
        base: folder or Hub name of the base model.
        weights: as they are on the disk, before ZeRO-3 splits or bitsandbytes quantises them.
        args: of the training.

    Raises:
        InputError: lora_weight_path was trained on another base.
    """
    if args.lora_weight_path:
        doubt = check_base_of(args.lora_weight_path, base, weights)
        if doubt and args.process_index == 0:
            print(f"warning: {doubt}", file=sys.stderr)
    return {"base": base, **base_digest(weights)} if args.process_index == 0 else None


def add_adapters(model: PreTrainedModel, base: str, freeze_projector: bool, args: TrainingArguments) -> Any:
    """A PeftModel whose adapters are trained, its projector with them unless that is to be frozen, and nothing else.

    Outside of ZeRO-3, which demands one dtype, both are float32.

    Args:
        model: with vision tower, projector and vocabulary as they are to be trained.
        base: folder or Hub name of the base model, for adapter_config.json.
        freeze_projector: keep the projector as it is.
        args: lora_r, lora_alpha, lora_dropout, lora_bias, lora_weight_path, seed.

    Raises:
        InputError: an adapter to start from that does not fit.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        bias=args.lora_bias,
        target_modules=linear_names(model),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )
    zero3 = is_deepspeed_zero3_enabled()
    with torch.random.fork_rng(devices=[]):  # ZeRO-3 draws other numbers than one process while it loads the base
        torch.manual_seed(args.seed)
        wrapped = wrap(model, config, autocast_adapter_dtype=not zero3)
    projector = getattr(model.get_model(), PROJECTOR, nn.Identity())
    if not zero3:
        projector.to(torch.float32)
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_("lora_" in name or PROJECTOR in name and not freeze_projector)
    if args.lora_weight_path:
        _start_from(wrapped, args.lora_weight_path)
    return wrapped


def _start_from(wrapped: Any, path: str) -> None:
    """Load adapters, and the weights trained beside them, from the folder of an earlier LoRA training."""
    stored, config = read_adapter_config(path), wrapped.peft_config["default"]
    where = f"{path}/{ADAPTER_CONFIG}"
    for key in ("r", "lora_alpha"):
        before, now, flag = getattr(stored, key), getattr(config, key), f"--lora_{key.removeprefix('lora_')}"
        if before != now:
            raise InputError(f"{where}: {key} is {before}, {flag} is {now}. Set it to match.")
    for key in _OTHER_KINDS:
        if getattr(stored, key):
            raise InputError(f"{where}: {key} is set; only plain LoRA is trained here. Merge it and start from that.")
    before, now = stored.target_modules, config.target_modules
    if not isinstance(before, str) and {name.rpartition(".")[2] for name in before} != set(now):
        raise InputError(
            f"{where}: target_modules is {', '.join(sorted(before))}; trained here are all linear layers "
            f"({', '.join(now)}). Merge it and start from that."
        )
    fill_adapter(wrapped, path)
    _fill(wrapped.get_base_model(), read_others(path), path)


def _fill(model: nn.Module, tensors: Mapping[str, torch.Tensor], source: str | Path) -> None:
    """Copy tensors into the parameters of their names. Raises InputError for a missing name or another shape."""
    parameters = dict(model.named_parameters())
    unfit = [
        name for name, value in tensors.items() if name not in parameters or value.shape != kind_of(parameters[name])[0]
    ]
    if unfit:
        raise InputError(
            f"{source}: the model has no parameter of name and shape {', '.join(unfit[:5])}. Check the base."
        )
    filled = [parameters[name] for name in tensors]
    with gathered(*filled):
        for parameter, value in zip(filled, tensors.values(), strict=True):
            parameter.data.copy_(value)


def saved_parameters(wrapped: Any, vocabulary_grew: bool) -> dict[str, nn.Parameter]:
    """The parameters that a LoRA folder must contain to restore the model from its base, by the PeftModel's names.

    The adapters; the projector, trained or not, since a plain language model has none; and embeddings and lm_head if
    tokens were added to the vocabulary.
    """
    parts = (PROJECTOR, *EMBEDDINGS) if vocabulary_grew else (PROJECTOR,)
    return {
        name: parameter
        for name, parameter in wrapped.named_parameters()
        if parameter.requires_grad or any(part in name for part in parts)
    }


def saved_state(wrapped: Any, vocabulary_grew: bool) -> dict[str, torch.Tensor]:
    """The tensors of `saved_parameters` on the CPU, whole under ZeRO-3 too (call it on all ranks)."""
    named = saved_parameters(wrapped, vocabulary_grew)
    with gathered(*named.values()):
        return {name: parameter.detach().cpu().clone() for name, parameter in named.items()}


def save(wrapped: Any, state: Mapping[str, torch.Tensor], folder: Path, safe_serialization: bool) -> None:
    """Write a LoRA folder: config.json, the adapter, the other trained weights."""
    folder.mkdir(parents=True, exist_ok=True)
    wrapped.config.save_pretrained(folder)
    save_adapter(wrapped, state, folder, safe_serialization)


def restore(wrapped: Any, folder: str | Path, vocabulary_grew: bool) -> None:
    """Load the model's weights from a checkpoint of the same training.

    Raises:
        InputError: a tensor is missing or of another shape.
    """
    wrong = unsaved(wrapped, folder, vocabulary_grew)
    if wrong:
        raise InputError(f"{folder}: lacks {', '.join(wrong[:5])}. Delete it to resume from the previous one.")
    fill_adapter(wrapped, str(folder))
    _fill(wrapped.get_base_model(), read_others(str(folder)), folder)


def unsaved(wrapped: Any, folder: str | Path, vocabulary_grew: bool) -> list[str]:
    """Names of the parameters that a LoRA folder lacks or has in another shape or dtype (also under ZeRO-3)."""
    stored = {name: kind_of(value) for name, value in read_adapter(folder).items()}
    return [
        unwrapped(name)
        for name, parameter in saved_parameters(wrapped, vocabulary_grew).items()
        if stored.get(stored_name(name)) != kind_of(parameter)
    ]
