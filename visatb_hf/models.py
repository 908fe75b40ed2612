"""Loads models and processors of current families for training, and selects the parts that are trained."""

import importlib.util
import re
from argparse import Namespace
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llava.generate.budget import BUDGET
from visatb.cli import one_line
from visatb.errors import InputError
from visatb.files import read_json
from visatb_hf.chat import Chat

# Matched first, against parameter names: Qwen's merger is inside its tower.
_PROJECTOR = re.compile(r"merger|multi_modal_projector|connector|projector|perceiver")
_TOWER = re.compile(r"visual|vision_tower|vision_model|vision_encoder|image_encoder")
# Raised when a folder of damaged or unknown files is loaded.
UNUSABLE = (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError)
_LLAVA = ("llava_llama", "llava_mpt")  # model_type of this repository's fork


def refuse_wrong_environment(model: str) -> None:
    """Refuse a LLaVA-1.5 folder of the fork, and an environment of the fork's packages.

    Raises:
        InputError: naming the other environment.
    """
    if int(version("transformers").split(".")[0]) < 5:
        raise InputError(
            f"{model}: current models need the environment of requirements-hf.txt (.venv-hf, docs/current_models.md), "
            f"this one has transformers {version('transformers')}. Use its Python."
        )
    file = Path(model) / "config.json"
    config = read_json(file) if file.is_file() else {}
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind in _LLAVA or isinstance(config, dict) and "mm_vision_tower" in config:
        raise InputError(
            f"{model}: is a LLaVA-1.5 model of this repository's fork, which needs the environment of requirements.txt "
            "(.venv). Use that one, or convert the model first: visatb convert --help."
        )


def read_processor(model: str) -> Any:
    """The processor of a model.

    Raises:
        InputError: a folder without one, a missing package, or damaged files.
    """
    from transformers import AutoProcessor

    if Path(model).exists() and not Path(model).is_dir():
        raise InputError(f"{model}: must be a folder or a Hub name. Correct --model_name_or_path (BASE_MODEL_PATH).")
    try:
        processor = AutoProcessor.from_pretrained(model, local_files_only=Path(model).is_dir())
    except ImportError as error:
        raise InputError(f"{model}: its processor needs a missing package: {one_line(error)}") from None
    except UNUSABLE as error:
        lacking = "" if importlib.util.find_spec("torchvision") else " (torchvision is not installed; many need it)"
        raise InputError(f"{model}: its processor cannot be loaded{lacking}: {one_line(error)}") from None
    tokenizer = getattr(processor, "tokenizer", processor)
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{model}: needs a fast tokenizer (tokenizer.json), whose offsets mark answers. Convert it.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def chat_of(processor: Any, flags: Namespace) -> Chat:
    """The chat template that the flags select. Raises InputError: it cannot be read or used."""
    template = None
    if flags.chat_template:
        try:
            template = Path(flags.chat_template).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{flags.chat_template}: must be UTF-8 text. Correct --chat_template.") from None
        processor.chat_template = template  # saved with the model, for inference
    return Chat(processor, flags.model_name_or_path, template)


def read_model(flags: Namespace, dtype: torch.dtype) -> nn.Module:
    """A model prepared for training as the flags say: with frozen parts, adapters or quantisation.

    Raises:
        InputError: it cannot be loaded, or lacks a part that the flags name.
    """
    from transformers import AutoModelForImageTextToText
    from transformers.integrations import is_deepspeed_zero3_enabled

    name = flags.model_name_or_path
    if flags.bits != 16 and not torch.cuda.is_available():
        raise InputError(
            f"--bits {flags.bits} (QLoRA) needs an NVIDIA GPU, and none is visible. Use --lora_enable alone."
        )
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            name, dtype=dtype, local_files_only=Path(name).is_dir(), **_quantised(flags.bits, dtype)
        )
    except ImportError as error:
        raise InputError(f"{name}: needs a missing package: {one_line(error)}") from None
    except UNUSABLE as error:
        raise InputError(f"{name}: cannot be loaded: {one_line(error)} Check --model_name_or_path.") from None
    with suppress(AttributeError):
        model.config.use_cache = False
    budget = [flags.min_pixels, flags.max_pixels]
    if any(budget) or hasattr(model.config, BUDGET):
        setattr(model.config, BUDGET, budget)  # inference resizes images as training did
    if is_deepspeed_zero3_enabled():
        # Under ZeRO-3, transformers 5.23 keeps every weight renaming that it knows for the family, also for older
        # files, and saves under names that no file has; without the renamings it saves under the family's names.
        model._weight_conversions = None
    return with_adapters(model, flags) if flags.lora_enable else frozen(model, flags)


def _quantised(bits: int, dtype: torch.dtype) -> dict[str, Any]:
    if bits == 16:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"--bits {bits} needs bitsandbytes: pip install bitsandbytes.")
    from transformers import BitsAndBytesConfig

    kind = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8, **kind)}


def frozen(model: nn.Module, flags: Namespace) -> nn.Module:
    """The model with tower and projector frozen or trained, as the flags say. Raises InputError: it lacks a part."""
    found = {"vision tower": 0, "projector": 0}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        if part is not None:
            found[part] += 1
            parameter.requires_grad_(
                not (flags.freeze_vision_tower if part == "vision tower" else flags.freeze_projector)
            )
    for part, count in found.items():
        flag = "freeze_" + part.replace(" ", "_")
        if not count and getattr(flags, flag):
            raise InputError(f"{type(model).__name__}: has no {part} to freeze. Set --{flag} False.")
    return model


def part_of(name: str) -> str | None:
    """The part a parameter belongs to: "projector", "vision tower", or None for the language model."""
    if _PROJECTOR.search(name):
        return "projector"
    return "vision tower" if _TOWER.search(name) else None


def with_adapters(model: nn.Module, flags: Namespace) -> nn.Module:
    """The model with LoRA adapters on all linear layers of its language model; everything else is frozen."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if flags.bits != 16:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    head = model.get_output_embeddings()
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and part_of(name) is None
    ]
    config = LoraConfig(
        r=flags.lora_r, lora_alpha=flags.lora_alpha, lora_dropout=flags.lora_dropout, target_modules=targets
    )
    return get_peft_model(model, config)
