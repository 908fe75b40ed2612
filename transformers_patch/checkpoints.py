"""A Trainer whose checkpoints are complete or absent, and whose resumed runs are equal bit for bit.

All ranks write into `OUTPUT_DIR/.saving/checkpoint-N`; rank 0 alone reopens the weights, seals the folder with a
manifest (see publish.py) and renames it. The ranks agree after each part, so that one that cannot write stops all.
Nothing that can run code is loaded: states are tensors and plain values, read with `weights_only=True`.
"""

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any

import numpy as np
import torch
import transformers
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from transformers_patch.compat import rng_state_loadable, save_deepspeed
from transformers_patch.publish import STAGING, checkpoint_folders, discard, publish, random_state_name, seal
from transformers_patch.stopping import StopSignals
from transformers_patch.tensor_files import load_tensors, save_tensors, weights_only_loading

STOP_REQUESTS = 3  # numbers in `ResumableTrainer.stop_requests`
WEIGHTER_FILE = "weighter.pt"
_FULL_DISK = 2**20  # bytes free


class SaveError(RuntimeError):
    """A checkpoint or model could not be written; raised on all ranks. Existing files are unchanged."""


class ResumableTrainer(transformers.Trainer):
    """Saving, resuming and stopping of `transformers_patch.Trainer`. Without a weighter: transformers' own.

    Attributes:
        run_digest: identifies the run in its checkpoints; set by the code that searches for one to resume from.
        stop: signals to handle; None for none.
        stopped_by: the signal after which `train` saved and returned early; else 0.
    """

    weighter: Any = None
    is_strategy = False
    run_digest = ""
    stop: StopSignals | None = None
    stopped_by = 0
    _agreed_signal = 0
    _save_due = False
    _saved_step = -1

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """transformers' train; of a checkpoint, it and DeepSpeed load tensors and plain values alone."""
        if self.weighter is None:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        self._saved_at = time.monotonic()
        self.stopped_by = self._agreed_signal = 0
        with ExitStack() as self._loading:
            self._loading.enter_context(weights_only_loading())
            return super().train(resume_from_checkpoint, *args, **kwargs)

    # Stopping

    def stop_requests(self) -> torch.Tensor:
        """float64 [STOP_REQUESTS], this rank's: stop for SIGTERM, stop for SIGINT, save by rank 0's clock."""
        received = self.stop.received if self.stop is not None else 0
        minutes = getattr(self.args, "save_minutes", None)
        due = minutes and self.is_world_process_zero() and time.monotonic() - self._saved_at >= 60 * minutes
        stop_requests = [received == SIGTERM, received == SIGINT, bool(due)]
        return torch.tensor(stop_requests, dtype=torch.float64).to(self.args.device, non_blocking=True)

    def apply_requests(self, stop_requests: list[float]) -> None:
        """Apply the requests summed over all ranks, so that all stop and save at the same step."""
        terminate, interrupt, due = stop_requests
        self._agreed_signal = int(SIGTERM) if terminate else int(SIGINT) if interrupt else 0
        self._save_due = due > 0

    def _maybe_log_save_evaluate(self, tr_loss, model, trial, epoch, ignore_keys_for_eval):
        if self._agreed_signal and self.state.global_step < self.state.max_steps:  # else only the model is left to save
            self.stopped_by = self._agreed_signal
            self.control.should_training_stop = True
        if self.stopped_by or self._save_due:
            self.control.should_save = True
        if self.is_strategy and self.control.should_save and self.state.global_step > self._globalstep_last_logged:
            self.control.should_log = True  # a run resumed from here would miss steps not yet in the log
        super()._maybe_log_save_evaluate(tr_loss, model, trial, epoch, ignore_keys_for_eval)

    # Saving

    @contextmanager
    def writing(self, target: Path) -> Iterator[None]:
        """Let all ranks agree, at the end of the block, that each has written its part (call it on all ranks).

        A block may begin with a collective, but none may follow a write.

        Raises:
            SaveError: on all ranks, if one failed. What was being written is removed.
        """
        problem = None
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as RuntimeError
            problem = _reason(error, self.args.output_dir)
        problems = [text for text in gather_object([problem]) if text is not None]
        if not problems:
            return
        if self.is_world_process_zero():
            shutil.rmtree(Path(self.args.output_dir) / STAGING, ignore_errors=True)
        raise SaveError(
            f"{target} could not be written: {problems[0]}. Existing files are unchanged: "
            "free space and run the same command again."
        )

    def _save_checkpoint(self, model: nn.Module, trial: Any, metrics: dict | None = None) -> None:
        if self.weighter is None:
            super()._save_checkpoint(model, trial, metrics)
            return
        step, output = self.state.global_step, Path(self.args.output_dir)
        if step == self._saved_step:  # the end of a step and of its epoch
            return
        staged, final = (folder / f"checkpoint-{step}" for folder in (output / STAGING, output))
        self.store_flos()
        self._note_best(metrics, final)
        with self.writing(final):
            self.save_model(str(staged), _internal_call=True)
        if self.is_deepspeed_enabled:
            with self.writing(final):
                save_deepspeed(self.model_wrapped, staged, tag=f"global_step{step}")
        with self.writing(final):
            save_tensors(random_state(), staged / random_state_name(self.args.process_index))
            if self.is_world_process_zero():
                self._save_states(staged)
        with self.writing(final):
            if self.is_world_process_zero():
                self._check_tensors(staged)
                facts = {"step": step, "world_size": self.args.world_size, "deepspeed": self.is_deepspeed_enabled}
                seal(staged, run=self.run_digest, **facts)
                publish(staged, final)
                self._discard_older(output, final)
        self._saved_step, self._saved_at = step, time.monotonic()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))

    def _note_best(self, metrics: dict | None, final: Path) -> None:
        name = self.args.metric_for_best_model
        if metrics is None or name is None:
            return
        value = metrics[name if name.startswith("eval_") else f"eval_{name}"]
        best = self.state.best_metric
        if best is None or (value > best if self.args.greater_is_better else value < best):
            self.state.best_metric, self.state.best_model_checkpoint = value, str(final)

    def _save_states(self, staged: Path) -> None:
        """What rank 0 writes for all. DeepSpeed has the optimizer's state; the scheduler's only if it made it."""
        self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
        if self.is_strategy:
            save_tensors(self.weighter.state_dict(), staged / WEIGHTER_FILE)
        if not self.is_deepspeed_enabled:
            save_tensors(self.optimizer.state_dict(), staged / OPTIMIZER_NAME)
        if not self.is_deepspeed_enabled or self._scheduler_is_ours:
            save_tensors(self.lr_scheduler.state_dict(), staged / SCHEDULER_NAME)
        if self.accelerator.scaler is not None:  # of fp16
            save_tensors(self.accelerator.scaler.state_dict(), staged / SCALER_NAME)

    @property
    def _scheduler_is_ours(self) -> bool:
        """transformers 4.31.0 trusts DeepSpeed to save the scheduler, and does not give it the one it makes itself."""
        return self.is_deepspeed_enabled and isinstance(self.lr_scheduler, torch.optim.lr_scheduler.LRScheduler)

    def _check_tensors(self, folder: Path) -> None:
        """Reopen saved weights: all parameters, or in a folder of adapters the trained ones, must be there and whole.

        Raises:
            SaveError: naming those that are not.
        """
        saved = saved_kinds(folder)
        is_whole = any(folder.glob("model*.safetensors")) or any(folder.glob("pytorch_model*.bin"))
        wrong = [name for name, (shape, _) in saved.items() if 0 in shape]
        for name, parameter in self.model.named_parameters():
            if (is_whole or parameter.requires_grad) and saved.get(_stored_name(name)) != kind_of(parameter):
                wrong.append(name)
        if wrong:
            raise SaveError(
                f"{len(wrong)} parameters are missing, empty or of another shape or dtype: {', '.join(wrong[:5])}"
            )

    def _discard_older(self, output: Path, newest: Path) -> None:
        """Apply `--save_total_limit` after publishing the newest checkpoint; the newest and the best are kept."""
        limit = self.args.save_total_limit
        if limit is None or limit <= 0:
            return
        kept = {str(newest), str(self.state.best_model_checkpoint or newest)}
        others = [path for path in checkpoint_folders(output) if str(path) not in kept]
        for path in others[: len(others) - max(limit - len(kept), 0)]:
            with suppress(OSError):  # an error in deleting does not affect the saved checkpoint
                discard(path, output / STAGING)

    # Resuming

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.weighter is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        step = 0
        if checkpoint is not None:
            folder = Path(checkpoint)
            step = transformers.TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME)).global_step
            if not self.is_deepspeed_enabled:
                # Mapped, all ranks of a machine share one copy; on the CPU the state itself would stay in the file.
                mapped = self.args.device.type != "cpu"
                self.optimizer.load_state_dict(load_tensors(folder / OPTIMIZER_NAME, mmap=mapped))
            if not self.is_deepspeed_enabled or self._scheduler_is_ours:
                self.lr_scheduler.load_state_dict(load_tensors(folder / SCHEDULER_NAME))
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(load_tensors(folder / SCALER_NAME))
            if self.is_strategy:
                self.weighter.load_state_dict(load_tensors(folder / WEIGHTER_FILE))
        self._saved_step = step if checkpoint is not None else -1  # an existing checkpoint need not be written again
        if self.is_strategy:
            self._started = time.monotonic() - self._task_log.resume(step)
        self._loading.close()  # the model, and DeepSpeed's part, were loaded before

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self.weighter is None:
            with rng_state_loadable():
                super()._load_rng_state(checkpoint)
            return
        file = None if checkpoint is None else Path(checkpoint) / random_state_name(self.args.process_index)
        if file is not None and file.exists():  # else this run has more processes than the one that saved
            set_random_state(load_tensors(file))

    def _load_best_model(self) -> None:
        with weights_only_loading():
            super()._load_best_model()


def random_state() -> dict[str, Any]:
    """The state of this process's random generators in plain numbers and tensors."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, numbers, next_gauss = random.getstate()
    state = {
        "python": [version, list(numbers), next_gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()  # of this rank's GPU
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the random generators to `random_state`."""
    version, numbers, next_gauss = state["python"]
    random.setstate((version, tuple(numbers), next_gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def kind_of(tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
    """Shape and dtype of a tensor; of a parameter that ZeRO-3 has split, those of the whole."""
    return torch.Size(getattr(tensor, "ds_shape", tensor.shape)), tensor.dtype


def saved_kinds(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Names, shapes and dtypes of the tensors in a folder's weight files, without reading the tensors."""
    kinds = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:  # memory-mapped
            kinds |= {name: kind_of(tensors.get_tensor(name)) for name in tensors.keys()}  # noqa: SIM118
    for file in folder.glob("*.bin"):
        if file.name != TRAINING_ARGS_NAME:
            kinds |= {name: kind_of(tensor) for name, tensor in load_tensors(file, mmap=True).items()}
    return {_stored_name(name): kind for name, kind in kinds.items()}


def _stored_name(name: str) -> str:
    """A parameter's name without what peft adds to it in memory or in its files."""
    return name.removeprefix("base_model.model.").replace(".default.", ".").replace(".base_layer.", ".")


def _reason(error: BaseException, output: str) -> str:
    """Why a write failed, in one line: the system's error, which torch hides behind its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    with suppress(OSError):
        if shutil.disk_usage(output).free < _FULL_DISK:
            return "No space left on device"
    return " ".join(str(error).split())[:300] or type(error).__name__
