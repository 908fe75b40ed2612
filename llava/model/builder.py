"""Loads trained models: full checkpoints, projectors on a base model, LoRA adapters on a base model.

Weights are read without executing code (`llava.model.weights`), and every weight of the model must be present.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizer

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN
from llava.data.tokenizer import TOKENIZER_FILE, check_vocabulary, read_tokenizer
from llava.hub import companion
from llava.model.adapter import ADAPTER_CONFIG, fill_adapter, is_adapter, read_adapter, unwrapped, wrap
from llava.model.adapter_config import base_named, read_adapter_config
from llava.model.base_digest import check_base_of, refuse_itself
from llava.model.config_file import read_config
from llava.model.config_rules import check_generation_config, check_token_ids
from llava.model.empty import without_storage
from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM
from llava.model.weights import check_fit, fill, read_state_dict, read_tensors, weight_files
from transformers_patch import LlamaForCausalLM
from visatb.cli import one_line
from visatb.errors import InputError
from visatb.files import read_json

PROJECTOR_FILE = "mm_projector.bin"
TOWER_PREFIX = "model.vision_tower.vision_tower."
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"

_DEFAULT_CONTEXT = 2048
# Training may have added them and saved no row of them.
_TOKENS_OF_LLAVA = ("[PAD]", DEFAULT_IMAGE_PATCH_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN)
_GENERATION_FILE = "generation_config.json"
# Errors that transformers raises for damaged files or unexpected values.
_UNUSABLE = (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError)
# Small modules that a quantised model keeps in half precision; the projector's error would reach every patch.
_NOT_QUANTISED = ["lm_head", "mm_projector", "vision_tower"]


def load_pretrained_model(
    model_path: str,
    model_base: str | None,
    model_name: str,
    load_8bit: bool = False,
    load_4bit: bool = False,
    device_map: str | dict | None = "auto",
    device: str = "cuda",
    torch_dtype: torch.dtype | None = None,
) -> tuple[PreTrainedTokenizer, LlamaForCausalLM, Any, int]:
    """Load a trained model for generation.

    The files of a folder say what it is; of a Hub name, "lora" in it says that it is an adapter.

    Args:
        model_path: folder or Hub name of a checkpoint, of a projector or of a LoRA adapter.
        model_base: the language model that a projector or an adapter belongs to; None for a whole checkpoint.
        model_name: see `llava.mm_utils.get_model_name_from_path`.
        load_8bit, load_4bit: quantise with bitsandbytes (CUDA only).
        device_map: "auto" spreads the model over the visible GPUs if there are several; None or a dict uses `device`.
        device: where to put it.
        torch_dtype: None: float32 on a CPU, float16 elsewhere.

    Returns:
        tokenizer (slow; padding side as saved), model in eval mode, image_processor (None for a text model),
        context_len.

    Raises:
        InputError: files missing or damaged, weights that do not fit the model, a base that is missing.
    """
    device = _usable(device)
    dtype = torch_dtype or (torch.float32 if device.type == "cpu" else torch.float16)
    config = read_config(model_path)
    _refuse_quantisation(load_8bit, load_4bit, device, model_base, model_path)
    refuse_itself(model_path, model_base)
    if is_adapter(model_path, model_name):
        tokenizer, model = _load_lora(model_path, model_base, config, dtype)
    elif model_base is not None:
        tokenizer, model = _load_projector_on_base(model_path, model_base, config, dtype)
    elif load_8bit or load_4bit:
        tokenizer, model = _load_quantised(model_path, config, load_4bit, device_map)
    else:
        tokenizer, model = _load_whole(model_path, config, dtype)
    model.generation_config = _generation_config(model_path, model)
    image_processor = None
    if isinstance(model, LlavaLlamaForCausalLM):
        _add_image_tokens(tokenizer, model)
        tower = model.get_vision_tower()
        tower.load_model()
        image_processor = tower.image_processor
    if load_8bit or load_4bit:
        model.get_vision_tower().to(device=model.device, dtype=torch.float16)
    else:
        _place(model, device_map, device, dtype)
    model.eval()
    return tokenizer, model, image_processor, getattr(config, "max_sequence_length", _DEFAULT_CONTEXT)


def _usable(device: str) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r}: {one_line(error)}. Use cpu, cuda or cuda:N.") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: there is no NVIDIA GPU. Use cpu.")
    return found


def _refuse_quantisation(
    load_8bit: bool, load_4bit: bool, device: torch.device, model_base: str | None, model_path: str
) -> None:
    if not (load_8bit or load_4bit):
        return
    if load_8bit and load_4bit:
        raise InputError("--load-8bit and --load-4bit exclude each other. Drop one.")
    if device.type != "cuda" or not torch.cuda.is_available():
        raise InputError("--load-8bit and --load-4bit need an NVIDIA GPU. Drop the flag.")
    if model_base is not None or is_adapter(model_path, ""):
        raise InputError("--load-8bit and --load-4bit need a full checkpoint. Merge the model first or drop the flag.")


def _load_whole(model_path: str, config: LlamaConfig, dtype: torch.dtype) -> tuple[PreTrainedTokenizer, Any]:
    if Path(model_path).is_dir() and not weight_files(model_path) and (Path(model_path) / PROJECTOR_FILE).is_file():
        raise InputError(f"{model_path}: contains only a projector. Pass its base model with --model-base.")
    weights = read_state_dict(model_path)
    tokenizer = _tokenizer_for(weights, config, model_path)
    model = empty_model(config)
    _fill(model, weights, model_path, dtype)
    return tokenizer, model


def _load_projector_on_base(
    model_path: str, model_base: str, config: LlamaConfig, dtype: torch.dtype
) -> tuple[PreTrainedTokenizer, LlavaLlamaForCausalLM]:
    """Stage 1's folder (config.json, mm_projector.bin), or a whole checkpoint's own weights over the base's."""
    projector = companion(model_path, PROJECTOR_FILE)
    if projector is None:
        raise InputError(f"{model_path}: no {PROJECTOR_FILE}. Drop --model-base for a full checkpoint.")
    weights = _laid_over(read_state_dict(model_base), read_tensors(projector), config, model_base)
    tokenizer = _tokenizer_for(weights, config, model_path, model_base)
    model = empty_model(config)
    _fill(model, weights, f"{model_base} with {projector}", dtype)
    return tokenizer, model


def _load_lora(
    model_path: str, model_base: str | None, config: LlamaConfig, dtype: torch.dtype
) -> tuple[PreTrainedTokenizer, Any]:
    """The base model with what was trained beside the adapter in place, and the adapter merged into it."""
    settings = read_adapter_config(model_path)
    if model_base is None:
        named = base_named(model_path)
        named = f" (its {ADAPTER_CONFIG} names {named})" if named else ""
        raise InputError(f"{model_path}: is a LoRA adapter. Pass the model it was trained on with --model-base{named}.")
    beside = {unwrapped(key): value for key, value in read_adapter(model_path).items() if "lora_" not in key}
    base = read_state_dict(model_base)
    weights = _laid_over(base, beside, config, model_base)
    doubt = check_base_of(model_path, model_base, base)
    tokenizer = _tokenizer_for(weights, config, model_path, model_base)
    model = empty_model(config)
    tower = _fill_decoder(model, weights, f"{model_base} with {model_path}", dtype)
    try:
        wrapped = wrap(model, settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"{model_path}/{ADAPTER_CONFIG}: does not fit the model: {one_line(error)[:200]}") from None
    fill_adapter(wrapped, model_path)
    if doubt:
        print(f"warning: {doubt}", file=sys.stderr)
    merged = wrapped.merge_and_unload()
    _fill_tower(merged, tower)  # afterwards: its layers have names that adapters are made for
    return tokenizer, merged


def _tokenizer_for(
    weights: Mapping[str, torch.Tensor], config: LlamaConfig, model_path: str, model_base: str | None = None
) -> PreTrainedTokenizer:
    """The tokenizer that training saved with the tokens it added; LLaVA's own folders have none but the base's.

    Raises:
        InputError: no tokenizer, a damaged one, or one with more pieces than the weights have embeddings.
    """
    source = model_base if model_base and companion(model_path, TOKENIZER_FILE) is None else model_path
    tokenizer = read_tokenizer(source)
    rows = len(weights[EMBEDDINGS]) if EMBEDDINGS in weights else config.vocab_size
    check_vocabulary(tokenizer, rows, source, _TOKENS_OF_LLAVA if isinstance(config, LlavaConfig) else ())
    return tokenizer


def _laid_over(
    base: dict[str, torch.Tensor], trained: dict[str, torch.Tensor], config: LlamaConfig, model_base: str
) -> dict[str, torch.Tensor]:
    """A base model's weights with those in place that were trained.

    Where training added tokens, a file may hold the new rows of the embeddings alone, and lacks lm_head if that was
    frozen: its new rows are then as training made them, the mean of the others.

    Raises:
        InputError: a base with another vocabulary.
    """
    weights = base | trained
    if not all(name in weights and weights[name].ndim == 2 for name in (EMBEDDINGS, HEAD)):
        return weights
    if EMBEDDINGS not in trained:
        rows = len(weights[EMBEDDINGS])
        if not 0 <= config.vocab_size - rows <= len(_TOKENS_OF_LLAVA):
            raise InputError(
                f"{model_base}: has {rows} tokens, the training had {config.vocab_size}. Check --model-base."
            )
        return weights
    if EMBEDDINGS in base and len(trained[EMBEDDINGS]) < len(base[EMBEDDINGS]):
        weights[EMBEDDINGS] = torch.cat([base[EMBEDDINGS], trained[EMBEDDINGS].to(base[EMBEDDINGS].dtype)])
    head = weights[HEAD]
    lacking = len(weights[EMBEDDINGS]) - len(head)
    if lacking > 0:
        mean = head.float().mean(dim=0, keepdim=True).to(head.dtype)
        weights[HEAD] = torch.cat([head, mean.expand(lacking, -1)])
    return weights


def _load_quantised(
    model_path: str, config: LlamaConfig, four_bits: bool, device_map: str | dict | None
) -> tuple[PreTrainedTokenizer, LlavaLlamaForCausalLM]:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise InputError("--load-8bit and --load-4bit need bitsandbytes. Run: pip install bitsandbytes") from None
    from transformers import BitsAndBytesConfig

    if not isinstance(config, LlavaConfig):
        raise InputError(f"{model_path}: only LLaVA checkpoints are quantised here. Drop the flag.")
    tokenizer = _tokenizer_for({}, config, model_path)
    # transformers itself reads the files here, and torch lets this variable turn its safe loading off.
    files = weight_files(model_path)  # also refuses an index that points outside the folder
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD") and any(file.suffix == ".bin" for file in files):
        raise InputError("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD must not be set: torch files could execute code. Unset it.")
    quantisation = BitsAndBytesConfig(
        load_in_8bit=not four_bits,
        load_in_4bit=four_bits,
        llm_int8_skip_modules=_NOT_QUANTISED,
        bnb_4bit_compute_dtype=torch.float16,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_type="nf4",
    )
    model, info = LlavaLlamaForCausalLM.from_pretrained(
        model_path,
        config=config,
        quantization_config=quantisation,
        device_map=device_map or "auto",
        torch_dtype=torch.float16,
        output_loading_info=True,
    )
    missing = [key for key in info["missing_keys"] if not is_counted_anew(key)]
    if missing:
        raise InputError(f"{model_path}: weights missing: {', '.join(missing[:5])}. Use a complete checkpoint.")
    return tokenizer, model


def empty_model(config: LlamaConfig) -> LlamaForCausalLM:
    """The model with parameters on the meta device: nothing is initialised that a checkpoint replaces.

    Raises:
        InputError: settings that make no model.
    """
    model_class = LlavaLlamaForCausalLM if isinstance(config, LlavaConfig) else LlamaForCausalLM
    try:
        with without_storage():
            return model_class(config)
    except InputError:
        raise
    except _UNUSABLE as error:
        raise InputError(f"config.json is no valid configuration: {one_line(error)} Use another checkpoint.") from None


def check_base(
    name_or_path: str, config: LlamaConfig, projector_elsewhere: bool = False, cache_dir: str | None = None
) -> dict[str, torch.Tensor]:
    """Refuse a base model whose weights are damaged or not exactly the model's, before transformers reads them.

    Args:
        name_or_path: folder or Hub name.
        config: as it is to be trained.
        projector_elsewhere: the projector comes from a file of its own.
        cache_dir: where downloads are kept.

    Returns:
        The language model's weights, memory-mapped.

    Raises:
        InputError: as `read_state_dict`, `empty_model`, `check_fit`.
    """
    weights = read_state_dict(name_or_path, lambda name: _is_of_decoder(name, projector_elsewhere), cache_dir)
    model = empty_model(config)
    check_fit(
        {name: tensor for name, tensor in model.state_dict().items() if _is_of_decoder(name, projector_elsewhere)},
        weights,
        name_or_path,
        _may_be_missing(config),
    )
    return weights


def _is_of_decoder(name: str, projector_elsewhere: bool) -> bool:
    other = name.startswith(TOWER_PREFIX) or is_counted_anew(name)
    return not (other or projector_elsewhere and "mm_projector." in name)


def _fill(model: LlamaForCausalLM, weights: dict[str, torch.Tensor], source: str, dtype: torch.dtype) -> None:
    """Fill an empty model; the vision tower's weights, where a checkpoint brings them, become the tower's."""
    _fill_tower(model, _fill_decoder(model, weights, source, dtype))


def _fill_decoder(
    model: LlamaForCausalLM, weights: dict[str, torch.Tensor], source: str, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Fill an empty model but for its vision tower; returns the tower's weights, by the tower's own names."""
    tower = {key.removeprefix(TOWER_PREFIX): value for key, value in weights.items() if key.startswith(TOWER_PREFIX)}
    rest = {
        key: value for key, value in weights.items() if not key.startswith(TOWER_PREFIX) and not is_counted_anew(key)
    }
    _fit_vocabulary(model, rest)
    fill(model, rest, source, dtype, _may_be_missing(model.config))
    model.tie_weights()
    return tower


def _may_be_missing(config: LlamaConfig) -> Callable[[str], bool]:
    tied = bool(getattr(config, "tie_word_embeddings", False))
    return lambda name: is_counted_anew(name) or tied and name == HEAD


def _fill_tower(model: LlamaForCausalLM, tower: dict[str, torch.Tensor]) -> None:
    if tower and isinstance(model, LlavaLlamaForCausalLM):
        model.get_vision_tower().load_model(tower)


def _fit_vocabulary(model: LlamaForCausalLM, weights: dict[str, torch.Tensor]) -> None:
    """Give a model its checkpoint's number of tokens where config.json does not say it (tokens added in training)."""
    stored = weights.get(EMBEDDINGS)
    if stored is not None and stored.ndim == 2 and stored.shape[0] != model.config.vocab_size:
        with without_storage():
            model.resize_token_embeddings(stored.shape[0])


def is_counted_anew(key: str) -> bool:
    """Rotary frequencies: 4.31.0 stores them, other versions do not, and they follow from the config."""
    return key.endswith("rotary_emb.inv_freq")


def _generation_config(model_path: str, model: LlamaForCausalLM) -> GenerationConfig:
    file = companion(model_path, _GENERATION_FILE)
    if file is None:
        return GenerationConfig.from_model_config(model.config)
    content = read_json(file)
    check_generation_config(content, file)
    check_token_ids(content, model.config.vocab_size, file)
    try:
        return GenerationConfig.from_dict(content)
    except _UNUSABLE as error:
        raise InputError(f"{file}: cannot be used: {one_line(error)} Copy it again, or delete it.") from None


def _add_image_tokens(tokenizer: PreTrainedTokenizer, model: LlavaLlamaForCausalLM) -> None:
    """Tokens that the config says the model uses; a saved tokenizer has them already."""
    if getattr(model.config, "mm_use_im_patch_token", True):
        tokenizer.add_tokens([DEFAULT_IMAGE_PATCH_TOKEN], special_tokens=True)
    if getattr(model.config, "mm_use_im_start_end", False):
        tokenizer.add_tokens([DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN], special_tokens=True)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer))
        for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
            weight = embeddings.weight.data
            weight[rows:] = weight[:rows].float().mean(dim=0)  # transformers draws them, other ones at every start


def _place(model: LlamaForCausalLM, device_map: str | dict | None, device: torch.device, dtype: torch.dtype) -> None:
    """Move the model to its device, or spread it over the visible GPUs."""
    tower = model.get_vision_tower() if isinstance(model, LlavaLlamaForCausalLM) else None
    if tower is not None:
        tower.to(dtype=dtype)
    if device_map != "auto" or device != torch.device("cuda") or torch.cuda.device_count() < 2:
        model.to(device)
        return
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = [*model._no_split_modules, "CLIPVisionTower"]
    memory = get_balanced_memory(model, dtype=dtype, no_split_module_classes=whole)
    dispatch_model(model, infer_auto_device_map(model, memory, no_split_module_classes=whole, dtype=dtype))
