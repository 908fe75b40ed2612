"""Model folders in LLaVA's and in Hugging Face's layout, each made of the other; see convert_hf."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from llava.data.tokenizer import TOKENIZER_FILE, read_tokenizer
from llava.hub import companion
from llava.model.adapter import is_adapter
from llava.model.builder import EMBEDDINGS, HEAD, TOWER_PREFIX, empty_model, is_counted_anew
from llava.model.config_file import CONFIG, make_config, read_config
from llava.model.empty import without_storage
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.model.weights import check_fit, read_state_dict, weight_files
from scripts_visatb.checkpoints import hf_config, hf_names, hf_tokens
from scripts_visatb.checkpoints.folders import divide, json_text, new_folder, refuse_taken, size_in_bytes, write_weights
from scripts_visatb.checkpoints.original import SIDECAR, Original
from visatb.cli import one_line
from visatb.errors import InputError
from visatb.files import read_json, write_text

_OPENAI_TOWER = "openai/clip-vit-large-patch14-336"
Weights = dict[str, torch.Tensor]


def to_hf(model_path: str, target: Path, vision_tower: str | None = None, max_shard_size: str = "5GB") -> None:
    """Write a LLaVA model in Hugging Face's layout.

    Args:
        model_path: folder or Hub name of a whole model.
        target: must not exist, or be an empty folder.
        vision_tower: folder or Hub name of the tower; None: the one that the model's config.json names.
        max_shard_size: of each weight file, such as "5GB".

    Raises:
        InputError: not a full LLaVA-1.5 model, a projector without counterpart, damaged files, a target that exists.
    """
    most = size_in_bytes(max_shard_size)
    refuse_taken(target)
    if is_adapter(model_path, "") or not weight_files(model_path):
        raise InputError(
            f"{model_path}: not a full model. Merge it first: python -m scripts_visatb.checkpoints.merge_lora_weights"
        )
    config = read_config(model_path)
    hf_config.check_ours(config, model_path)
    config.mm_vision_tower = vision_tower or config.mm_vision_tower
    weights = read_state_dict(model_path)
    tower = CLIPVisionTower(config.mm_vision_tower, config, delay_load=True)
    patches = tower.num_patches
    kept = {name: tensor for name, tensor in weights.items() if not hf_names.is_counted(name)}
    is_inside = any(name.startswith(TOWER_PREFIX) for name in kept)
    whole = kept if is_inside else kept | _tower_weights(tower)
    if EMBEDDINGS in kept and kept[EMBEDDINGS].ndim == 2:  # tokens that training added, and config.json need not count
        config.vocab_size = len(kept[EMBEDDINGS])
    _check(whole, config, tower.config, model_path)
    original = Original.of(model_path, weights, None if is_inside else tower_digest(whole))
    tokenizer, pieces = read_tokenizer(model_path), companion(model_path, TOKENIZER_FILE)
    _check_prompts(tokenizer, config, model_path)
    tokens = hf_tokens.grown(tokenizer, config.vocab_size, model_path)
    files = {CONFIG: hf_config.to_hf(config, tower.config, tokens, patches)}
    files |= hf_tokens.processor_files(tokenizer, tokens, config, _preprocessor(tower), tower.config.patch_size)
    files["generation_config.json"] = _generation(model_path, config) | {"pad_token_id": tokens.pad}
    whole = _with_rows(whole, lambda weight: hf_names.grown(weight, tokens.rows))
    renamed = {hf_names.to_hf(name): tensor for name, tensor in whole.items()}
    with new_folder(target) as folder:
        write_weights(renamed, divide(renamed, most), folder)
        for name, content in files.items():
            write_text(folder / name, content if isinstance(content, str) else json_text(content))
        shutil.copyfile(pieces, folder / TOKENIZER_FILE)
        original.write(folder)


def from_hf(model_path: str, target: Path, vision_tower: str | None = None, max_shard_size: str = "5GB") -> None:
    """Write a model in Hugging Face's layout as a LLaVA model.

    A folder that `to_hf` wrote, even if its weights were trained since, is converted back to the original files; for
    any other, the configuration is constructed and the vision tower's weights are included.

    Args:
        model_path: folder or Hub name.
        target: must not exist, or be an empty folder.
        vision_tower: value of mm_vision_tower; None: the original value, else OpenAI's ViT-L/14 at 336.
        max_shard_size: of each weight file if the original shards are not known.

    Raises:
        InputError: another architecture, damaged files, no tokenizer.model, a target that exists.
    """
    most = size_in_bytes(max_shard_size)
    refuse_taken(target)
    file = companion(model_path, CONFIG)
    if file is None:
        raise InputError(f"{model_path}: no {CONFIG} found: not a model folder. Give a checkpoint folder.")
    theirs = read_json(file)
    hf_config.check_kind(theirs, str(file))
    pieces = hf_tokens.tokenizer_model(model_path)
    original = Original.read(model_path)
    if original is None:
        rows, tokenizer = hf_tokens.vocabulary_of(
            model_path, pieces, theirs.get("image_token_index", theirs.get("image_token_id"))
        )
        content = hf_config.from_hf(theirs, vision_tower or _OPENAI_TOWER, rows, str(file))
    else:
        rows, content = original.rows, original.config(vision_tower)
    config = make_config(content, f"{model_path}/{SIDECAR}" if original else file, sees=True)
    tower = hf_config.tower_config(theirs)
    if original is None or vision_tower:
        _compare_tower(tower, config, model_path)
    renamed = hf_names.renamed_from_hf(read_state_dict(model_path), model_path)
    weights = _with_rows(renamed, lambda weight: weight[:rows])
    config.vocab_size = rows
    _check(weights, config, tower, model_path)
    if original is not None:
        weights = original.restored(weights, tower_digest(weights))
    with new_folder(target) as folder:
        if original is None:
            write_weights(weights, divide(weights, most), folder)
            write_text(folder / CONFIG, json_text(content))
            write_text(folder / "generation_config.json", json_text(_generation(None, config)))
            tokenizer.save_pretrained(folder)
        else:
            write_weights(weights, original.files_of(weights) or divide(weights, most), folder)
            original.write_files(folder, content)
            shutil.copyfile(pieces, folder / TOKENIZER_FILE)


def tower_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes and values of a vision tower's weights, under LLaVA's names."""
    digest = hashlib.sha256()
    for name in sorted(name for name in weights if name.startswith(TOWER_PREFIX)):
        digest.update(f"{name} {weights[name].dtype} {tuple(weights[name].shape)}\n".encode())
        digest.update(weights[name].contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _tower_weights(tower: CLIPVisionTower) -> Weights:
    """The tower's own weights under LLaVA's names; those of CLIP's text model are left out."""
    found = read_state_dict(tower.vision_tower_name, lambda name: name.startswith("vision_model."))
    return {TOWER_PREFIX + name: tensor for name, tensor in found.items() if not hf_names.is_counted(name)}


def _preprocessor(tower: CLIPVisionTower) -> dict[str, Any]:
    """The content of a tower's preprocessor_config.json."""
    file = companion(tower.vision_tower_name, "preprocessor_config.json")
    content = None if file is None else read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"vision tower {tower.vision_tower_name}: no usable preprocessor_config.json. Replace it.")
    return content


def _check(weights: Weights, config: Any, tower: CLIPVisionConfig, source: str) -> None:
    """Refuse weights, under LLaVA's names, that are not those of model and tower."""
    try:
        with without_storage():
            vision = CLIPVisionModel(tower).state_dict()
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{source}: the vision tower's settings are invalid: {one_line(error)}. Fix them.") from None
    wanted = empty_model(config).state_dict() | {TOWER_PREFIX + name: tensor for name, tensor in vision.items()}
    tied = bool(config.tie_word_embeddings)
    check_fit(
        wanted,
        weights,
        source,
        lambda name: is_counted_anew(name) or hf_names.is_counted(name) or tied and name == HEAD,
    )


def _check_prompts(tokenizer: Any, config: Any, source: str) -> None:
    """Refuse prompts whose ids Hugging Face's tokenizers cannot produce."""
    if getattr(config, "mm_use_im_start_end", False) and not tokenizer.legacy:
        raise InputError(
            f"{source}: mm_use_im_start_end with a tokenizer that is not legacy has no counterpart in Hugging Face's "
            "layout. Train without mm_use_im_start_end."
        )


def _with_rows(weights: Weights, change: Callable[[torch.Tensor], torch.Tensor]) -> Weights:
    """The weights with embeddings and lm_head changed, where they are matrices."""
    matrices = [name for name in (EMBEDDINGS, HEAD) if name in weights and weights[name].ndim == 2]
    return weights | {name: change(weights[name]) for name in matrices}


def _generation(model_path: str | None, config: Any) -> dict[str, Any]:
    """The content of a folder's generation_config.json, or its default for the configuration."""
    file = model_path and companion(model_path, "generation_config.json")
    if file:
        content = read_json(file)
        if not isinstance(content, dict):
            raise InputError(f"{file}: must be a JSON object. Copy the checkpoint again.")
        return content
    return {key: getattr(config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}


def _compare_tower(theirs: CLIPVisionConfig, config: Any, source: str) -> None:
    """Refuse a tower other than the checkpoint's own; warn if it is not available."""
    name = config.mm_vision_tower
    try:
        ours = CLIPVisionTower(name, config, delay_load=True).config
    except InputError as error:
        print(f"warning: {error} It was not checked against the checkpoint's own tower.")
        return
    hf_config.check_tower(theirs, ours, source, name)
