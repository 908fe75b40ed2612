"""What an answer depends on, as content: the model's files, the question file, the images, the settings.

Names and dates do not count: a copy of a model has the fingerprint of the original, another model of the same name
does not. Needs no torch.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from visatb.errors import InputError
from visatb.files import read_json

_MIB = 1024 * 1024
_WHOLE_UP_TO = 16 * _MIB
_BLOCK = 64 * 1024
_BLOCKS = 64
_WEIGHTS = (".safetensors", ".bin", ".model")
# Logs and trainer states lie in the same folder; they say nothing about the answers.
_SETTINGS = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "adapter_config.json",
}
_NOT_LOADED = {"training_args.bin", "optimizer.bin", "scheduler.bin"}


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file's size and content.

    Weights of many GB would take minutes to read. Of a file above 16 MiB the first and last MiB (a safetensors header
    lies in the first) and 64 blocks of 64 KiB spread evenly over the rest are read: any training step changes weights
    everywhere, so a sample finds it; a hand-made change of a few bytes in between may escape.
    """
    size = os.path.getsize(path)
    digest = hashlib.sha256(f"{size}\n".encode())
    with open(path, "rb") as stream:
        if size <= _WHOLE_UP_TO:
            digest.update(stream.read())
            return digest.hexdigest()
        digest.update(stream.read(_MIB))
        span = size - 2 * _MIB - _BLOCK
        for n in range(_BLOCKS):
            stream.seek(_MIB + span * n // (_BLOCKS - 1))
            digest.update(stream.read(_BLOCK))
        stream.seek(size - _MIB)
        digest.update(stream.read(_MIB))
    return digest.hexdigest()


def folder_digest(folder: str | os.PathLike) -> str:
    """SHA-256 over the names and contents of the files that loading a model from this folder may read."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        weights = path.suffix in _WEIGHTS and path.name not in _NOT_LOADED
        if (weights or path.name in _SETTINGS or path.name.endswith(".index.json")) and path.is_file():
            digest.update(f"{path.name}\n{file_digest(path)}\n".encode())
    return digest.hexdigest()


def model_fingerprint(model_path: str, model_base: str | None = None) -> dict[str, str]:
    """Digests of everything a model is loaded from: its folder, its base (LoRA, projector only), its vision tower.

    A part that is a name on the Hugging Face hub, not a folder, stands for itself.

    Raises:
        InputError: not a folder, or a folder without config.json.
    """
    fingerprint = {}
    for part, (place, config) in model_parts(model_path, model_base).items():
        fingerprint[part] = f"hub:{place}" if config is None else folder_digest(place)
        tower = config and config.get("mm_vision_tower")
        if tower:
            fingerprint["vision_tower"] = folder_digest(tower) if os.path.isdir(tower) else tower
    return fingerprint


def model_parts(model_path: str, model_base: str | None = None) -> dict[str, tuple[str, dict[str, Any] | None]]:
    """The place and the config of a model ("model") and of its base ("base"); the config is None for a hub name.

    Raises:
        InputError: as `model_fingerprint`.
    """
    parts = {"model": (model_path, _config_of(model_path, "--model-path"))}
    if model_base:
        parts["base"] = (model_base, _config_of(model_base, "--model-base"))
    return parts


def images_digest(image_folder: str | os.PathLike, names: Iterable[str]) -> str:
    """SHA-256 over image names and file sizes (None where a file is missing).

    Sizes, because reading every image twice would cost as much as asking a small model.
    """
    digest = hashlib.sha256()
    for name in sorted(set(names)):
        path = os.path.join(image_folder, name)
        size = os.path.getsize(path) if os.path.isfile(path) else None
        digest.update(f"{name}\n{size}\n".encode())
    return digest.hexdigest()


def key_of(made_from: dict[str, Any]) -> str:
    """The short key (16 hexadecimal digits) of a fingerprint."""
    text = json.dumps(made_from, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def _config_of(place: str, flag: str) -> dict[str, Any] | None:
    """The content of a model folder's config.json; None for a name on the hub."""
    if not os.path.isdir(place):
        if os.path.exists(place):
            raise InputError(f"{place}: {flag} must be a folder, got a file. Give the folder of the checkpoint.")
        owner, slash, name = place.partition("/")
        if not slash or "/" in name or owner.startswith((".", "~")) or not owner:
            raise InputError(f"{place}: no such folder ({flag}). Check the path.")
        return None
    file = Path(place) / "config.json"
    if not file.is_file():
        raise InputError(f"{place}: no config.json found: not a model folder. Give the folder of a checkpoint.")
    config = read_json(file)
    if not isinstance(config, dict):
        raise InputError(f"{file}: must be a JSON object. Copy the checkpoint again.")
    return config
