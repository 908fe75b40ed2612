"""Writing model folders: complete or absent, and verified by reopening."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers.utils.hub import convert_file_size_to_int

from llava.model.weights import read_state_dict
from visatb.errors import InputError
from visatb.files import fsync_folder, write_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def size_in_bytes(text: str) -> int:
    """The number of bytes that `5GB` or `200MiB` means.

    Raises:
        InputError: another spelling, or less than one byte.
    """
    try:
        size = convert_file_size_to_int(text)
    except ValueError:
        size = 0
    if size < 1:
        raise InputError(f"--max-shard-size must be a size such as 5GB or 200MB, got {text!r}. Fix the flag.")
    return size


def refuse_taken(target: Path) -> None:
    """Refuse a target that is a file, a folder that is not empty, or not writable, before any work."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: exists and is not an empty folder. Choose a new one.")
    folder = target.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{target}: cannot be written into {folder}. Choose another path.")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside the target; on success flush it to disk and rename it, else remove it."""
    refuse_taken(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        yield staged
        for file in staged.iterdir():
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        staged.chmod(0o777 & ~mask)
        os.replace(staged, target)  # fails if the target was filled in the meantime
        fsync_folder(target.parent)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def divide(weights: Mapping[str, torch.Tensor], most: int) -> dict[str, str]:
    """Tensor name -> file name: shards of at most that many bytes, in the order of the names given."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in weights.items():
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and filled + size > most:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        return dict.fromkeys(shards[0], WEIGHTS)
    return {
        name: f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n, shard in enumerate(shards, 1) for name in shard
    }


def write_weights(weights: Mapping[str, torch.Tensor], files: Mapping[str, str], folder: Path) -> None:
    """Write safetensors files, and an index if there are several; reopen them.

    Memory-mapped tensors are copied from file to file without loading them into memory.

    Args:
        weights: contiguous or not.
        files: tensor name -> file name.
        folder: exists.

    Raises:
        OSError: naming the file that could not be written.
        RuntimeError: the written files differ from the given weights.
    """
    for file in sorted(set(files.values())):
        shard = {name: weights[name].contiguous() for name in weights if files[name] == file}
        try:
            save_file(shard, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:  # also raised on a full disk
            raise OSError(errno.EIO, str(error), str(folder / file)) from None
    if set(files.values()) != {WEIGHTS}:
        total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}, 2)
    check_written(weights, folder)


def check_written(weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Reopen a folder. Raises RuntimeError naming a tensor that is missing or has another shape or dtype."""
    found = read_state_dict(folder)
    for name in weights.keys() | found.keys():
        for side in (weights, found):
            if name not in side:
                raise RuntimeError(f"{folder}: {name} was lost or added while writing")
        if (found[name].shape, found[name].dtype) != (weights[name].shape, weights[name].dtype):
            raise RuntimeError(f"{folder}: {name} was written as {found[name].dtype} {tuple(found[name].shape)}")


def json_text(content: object) -> str:
    """JSON as transformers writes it into model folders."""
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
