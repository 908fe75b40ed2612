"""The output folder of a training run: who it belongs to, whether it is finished, where to go on.

`visatb_run.json` holds a fingerprint of everything that shapes the result. A folder of another run is refused; a
finished one is left as it is; an unfinished one goes on from its newest checkpoint.
"""

import dataclasses
import fcntl
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

from llava.train.arguments import DataArguments, ModelArguments, TrainingArguments
from transformers_patch.trainer import STAGING
from visatb.errors import InputError
from visatb.files import read_json, write_json

RUN_FILE = "visatb_run.json"
LOG_FILE = "train_log.jsonl"
CONTENT = "_content"
_RESULTS = ("model*.safetensors*", "pytorch_model*.bin*", "mm_projector.bin", "trainer_state.json")

# What may change between two calls of one run: where it writes, what it shows, how work is split.
_FREE = {
    "output_dir overwrite_output_dir logging_dir log_level log_level_replica log_on_each_node logging_strategy "
    "logging_first_step logging_steps logging_nan_inf_filter save_strategy save_steps save_total_limit run_name "
    "disable_tqdm report_to dataloader_num_workers dataloader_pin_memory local_rank _n_gpu no_cuda use_mps_device "
    "ddp_backend ddp_timeout ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers deepspeed fsdp "
    "fsdp_config resume_from_checkpoint push_to_hub hub_token hub_model_id hub_strategy hub_private_repo cache_dir "
    "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps gradient_checkpointing "
    "lazy_preprocess push_to_hub_token skip_memory_metrics data_path image_folder benchmark ignore_data_skip"
}
_FREE = frozenset(" ".join(_FREE).split())


class RunFolder:
    """One output folder, locked while this process (rank 0) lives.

    Args:
        path: the folder; made if missing.
        fingerprint: what shapes the result, by name.
        is_first_rank: only rank 0 locks and writes.
        overwrite: forget an earlier run in the folder.

    Raises:
        InputError: the folder is in use, holds something else, or belongs to a run with other settings.
    """

    def __init__(self, path: str, fingerprint: dict[str, Any], is_first_rank: bool = True, overwrite: bool = False):
        self.path = Path(path)
        self._fingerprint = fingerprint
        self._is_first_rank = is_first_rank
        if is_first_rank:
            self._refuse_foreign()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
            if overwrite:
                self._forget()
        self.finished = self._check_owner()
        if is_first_rank and not self.finished:
            shutil.rmtree(self.path / STAGING, ignore_errors=True)

    def begin(self) -> None:
        """Claim the folder for this run: once its model is there, so that a failed start claims nothing."""
        if self._is_first_rank:
            self._write(finished=False)

    def newest_checkpoint(self) -> str | None:
        """The checkpoint with the most steps (they are renamed into place when complete), or None.

        Raises:
            InputError: it has lost a file; transformers would go on without optimizer or schedule and say nothing.
        """
        found = [
            (int(m[1]), p) for p in self.path.glob("checkpoint-*") if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))
        ]
        if not found:
            return None
        newest = max(found)[1]
        lost = [name for name in ("trainer_state.json", "scheduler.pt") if not (newest / name).is_file()]
        if not (newest / "optimizer.pt").is_file() and not list(newest.glob("global_step*")):  # DeepSpeed's own folder
            lost.append("optimizer.pt")
        if lost:
            raise InputError(f"{newest}: has lost {', '.join(lost)}. Delete this folder to go on from the one before.")
        return str(newest)

    def finish(self, **facts: Any) -> None:
        """Mark the run finished and note facts about it (steps, seconds, ...)."""
        if self._is_first_rank:
            self._write(finished=True, **facts)

    def _write(self, **content: Any) -> None:
        write_json(self.path / RUN_FILE, {"fingerprint": self._fingerprint, **content})

    def _refuse_foreign(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: output_dir must be a folder. Choose another --output_dir.")
        ours = (".lock", f".{RUN_FILE}.")  # what a kill before the first write of RUN_FILE leaves
        foreign = [p.name for p in self.path.glob("*") if not p.name.startswith(ours)]
        if foreign and not (self.path / RUN_FILE).exists():
            raise InputError(
                f"{self.path}: output_dir holds something else ({', '.join(sorted(foreign)[:3])}). "
                "Choose an empty --output_dir."
            )

    def _locked(self) -> Any:
        stream = open(self.path / ".lock", "w")  # noqa: SIM115 - held until the process ends
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{self.path}: another process is training into this folder. Wait or stop it.") from None
        return stream

    def _forget(self) -> None:
        for checkpoint in self.path.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        for pattern in (RUN_FILE, LOG_FILE, *_RESULTS):
            for file in self.path.glob(pattern):
                file.unlink()

    def _check_owner(self) -> bool:
        file = self.path / RUN_FILE
        if not file.exists():
            return False
        earlier = read_json(file)
        before, now = earlier["fingerprint"], self._fingerprint
        differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
        if differing and self._is_first_rank:
            changes = "; ".join(_difference(key, before.get(key), now.get(key)) for key in differing)
            raise InputError(
                f"{self.path}: output_dir belongs to a run with other settings ({changes}). "
                "Choose another --output_dir, or pass --overwrite_output_dir True."
            )
        return bool(earlier["finished"])


def _difference(key: str, before: Any, now: Any) -> str:
    if key.endswith(CONTENT):
        return f"the files of {key.removesuffix(CONTENT)}"
    return "the records of data_path" if key == "data" else f"{key} {before!r} -> {now!r}"


def fingerprint(
    model: ModelArguments, data: DataArguments, training: TrainingArguments, world_size: int, task_names: list[str]
) -> dict[str, Any]:
    """Everything that shapes the result of a run, by name, as JSON values."""
    shape: dict[str, Any] = {"data": sha256_of_file(data.data_path), "tasks": task_names}
    for arguments in (model, data, training):
        for field in dataclasses.fields(arguments):
            if field.name not in _FREE:
                shape[field.name] = _plain(getattr(arguments, field.name))
    shape["global_batch"] = (
        training.per_device_train_batch_size * training.gradient_accumulation_steps * max(world_size, 1)
    )
    if training.loss_normalization == "batch":
        shape["per_device_train_batch_size"] = training.per_device_train_batch_size
    for name in ("model_name_or_path", "vision_tower", "pretrain_mm_mlp_adapter"):
        shape[name + CONTENT] = _content_of(getattr(model, name))
    return shape


def sha256_of_file(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _content_of(path: str | None) -> Any:
    """Sizes and, of small files, hashes of a local file or folder; None for a Hub name.

    Weights of many gigabytes are told apart by their size and modification time: hashing them would take minutes.
    """
    if path is None or not os.path.exists(path):
        return None
    root = Path(path)
    files = [root] if root.is_file() else sorted(p for p in root.iterdir() if p.is_file() and p.name[0] != ".")
    small = 64 * 2**20
    return {
        file.name: sha256_of_file(file)
        if file.stat().st_size <= small
        else [file.stat().st_size, file.stat().st_mtime_ns]
        for file in files
        if file.name not in (RUN_FILE, LOG_FILE)
    }


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(getattr(value, "value", value))
