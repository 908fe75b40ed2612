"""Reads weights without executing code: safetensors, or torch files with weights_only=True, one file or shards."""

import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from llava.hub import companion
from visatb.errors import InputError
from visatb.files import read_json

# In the order in which transformers looks for them.
_WHOLE_OR_INDEX = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_OF_LLAVA_1_6 = "model.image_newline"


def read_state_dict(
    name_or_path: str | Path, wanted: Callable[[str], bool] = lambda name: True, cache_dir: str | None = None
) -> dict[str, torch.Tensor]:
    """The weights of a model folder or Hub name, memory-mapped.

    Args:
        name_or_path: folder or Hub name.
        wanted: selects tensors; shards without any of them are not opened.
        cache_dir: where downloads are kept.

    Raises:
        InputError: no weights, a shard that is missing, a file that is damaged or contains anything but tensors.
    """
    files = weight_files(name_or_path, wanted, cache_dir)
    if not files:
        if (Path(name_or_path) / "adapter_config.json").exists():
            merge = "python -m scripts_visatb.checkpoints.merge_lora_weights"
            raise InputError(f"{name_or_path}: is a LoRA adapter, not a full model. Merge it first: {merge}")
        raise InputError(f"{name_or_path}: no model.safetensors, pytorch_model.bin or shards of them. Check the path.")
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        weights.update({name: tensor for name, tensor in read_tensors(file).items() if wanted(name)})
    return weights


def weight_files(
    name_or_path: str | Path, wanted: Callable[[str], bool] = lambda name: True, cache_dir: str | None = None
) -> list[Path]:
    """The files that hold a model's weights, of shards those with a wanted tensor; [] if there are no weights."""
    for whole, index in _WHOLE_OR_INDEX:
        file = companion(name_or_path, whole, cache_dir)
        if file is not None:
            return [file]
        listing = companion(name_or_path, index, cache_dir)
        if listing is not None:
            return [_shard(name_or_path, name, cache_dir) for name in _shard_names(listing, wanted)]
    return []


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of one safetensors or torch file, by name.

    A torch file must be a zip archive (what torch.save has written since 1.6) of a plain dict; its pickle is read with
    weights_only=True, which no environment variable can override.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such file. Check the path.")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: damaged safetensors file: {error}. Copy it again.") from None
    if not zipfile.is_zipfile(file):
        raise InputError(f"{file}: not a torch checkpoint (a zip archive). Copy it again or save it anew.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))  # torch's first lines say how to run it
        what = f" ({named[1]})" if named else ""
        raise InputError(f"{file}: contains more than tensors{what} and was not loaded. Use safetensors.") from None
    except Exception as error:  # damaged or malicious pickles raise many error types
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{file}: damaged torch file: {reason}. Copy it again.") from None
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{file}: must contain a dict of names and tensors. Save model.state_dict() into it.")
    for key, value in content.items():
        if not _is_plain(value):
            raise InputError(f"{file}: {key} is not a plain tensor. Save model.state_dict() into it.")
    return dict(content)


def _is_plain(value: object) -> bool:
    """Whether it is a dense tensor with its numbers in memory; sparse, quantised and meta ones are not."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def fill(
    model: torch.nn.Module,
    weights: Mapping[str, torch.Tensor],
    source: str,
    dtype: torch.dtype,
    optional: Callable[[str], bool] = lambda key: False,
) -> None:
    """Load weights into a model on the meta device, in that dtype.

    Args:
        model: its parameters have no storage yet.
        weights: by the model's names.
        source: folder, for messages.
        dtype: of the floating-point weights.
        optional: names that may be missing.

    Raises:
        InputError: listing missing, unexpected and misshapen names.
    """
    check_fit(model.state_dict(), weights, source, optional)
    converted = {key: weight.to(dtype) if weight.is_floating_point() else weight for key, weight in weights.items()}
    model.load_state_dict(converted, strict=False, assign=True)


def check_fit(
    wanted: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    source: str,
    optional: Callable[[str], bool] = lambda key: False,
) -> None:
    """Refuse weights that are not exactly those that a model needs.

    Args:
        wanted: the model's own state; its tensors may be on the meta device.
        weights: by the model's names.
        source: folder, for messages.
        optional: names that may be missing.

    Raises:
        InputError: listing missing, unexpected and misshapen names.
    """
    missing = [key for key in wanted if key not in weights and not optional(key)]
    unexpected = [key for key in weights if key not in wanted]
    misshapen = [
        f"{key} {_kind(weights[key])} instead of {_kind(wanted[key])}"
        for key in wanted
        if key in weights and _kind(weights[key]) != _kind(wanted[key])
    ]
    if _OF_LLAVA_1_6 in unexpected:
        raise InputError(f"{source}: holds {_OF_LLAVA_1_6}: a LLaVA-1.6. Only LLaVA-1.5 is supported.")
    complaints = [
        f"{what} {_some(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if keys
    ]
    if complaints:
        raise InputError(f"{source}: weights do not fit the model: {'; '.join(complaints)}. Use a complete checkpoint.")


def _kind(tensor: torch.Tensor) -> str:
    """Shape of a tensor, and its dtype unless it is one of the floating-point ones, which are converted."""
    return f"{tuple(tensor.shape)}" + ("" if tensor.is_floating_point() else f" {tensor.dtype}")


def _some(keys: list[str], most: int = 5) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


def _shard_names(listing: Path, wanted: Callable[[str], bool]) -> list[str]:
    content = read_json(listing)
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise InputError(f"{listing}: must contain a weight_map of names and files. Copy it again.")
    for name in set(table.values()):
        if Path(name).name != name:
            raise InputError(f"{listing}: shard {name!r} leaves the folder. Use a checkpoint from a source you trust.")
    return sorted({file for name, file in table.items() if wanted(name)})


def _shard(name_or_path: str | Path, name: str, cache_dir: str | None) -> Path:
    file = companion(name_or_path, name, cache_dir)
    if file is None:
        raise InputError(f"{name_or_path}: shard {name} is missing. Copy the checkpoint again.")
    return file
