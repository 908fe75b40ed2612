"""Checkpoints of transformers 5's Trainer that are complete or absent and include the strategy's state.

The trainer writes its own layout into `OUTPUT_DIR/.saving/checkpoint-N`; rank 0 seals the folder with a manifest
(transformers_patch/publish.py) and renames it.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import transformers
from accelerate.utils import gather_object
from torch import nn

from transformers_patch.publish import STAGING, checkpoint_folders, discard, publish, seal
from transformers_patch.tensor_files import load_tensors, save_tensors, stage_by_value, weights_only_loading

WEIGHTER_FILE = "weighter.pt"
_TRAINER_STATE = "trainer_state.json"


def needed_files(manifest: dict[str, Any]) -> set[str]:
    """Files of transformers 5's Trainer that are required to resume a run exactly."""
    ranks = manifest["world_size"]
    states = {"rng_state.pth"} if ranks == 1 else {f"rng_state_{rank}.pth" for rank in range(ranks)}
    states |= {"latest"} if manifest["deepspeed"] else {"optimizer.pt", "scheduler.pt"}
    return states | {_TRAINER_STATE, WEIGHTER_FILE}


class SaveError(RuntimeError):
    """A checkpoint or model could not be written; raised on all ranks. Existing files are unchanged."""


class DamagedCheckpointError(ValueError):
    """A checkpoint that does not hold the model's weights."""


class WholeCheckpoints:
    """Saving and resuming for `TaskWeighting`.

    Attributes:
        run_digest: identifies the run in its checkpoints.
    """

    weighter: Any
    run_digest = ""
    _staging = False

    def train(self, *args: Any, **kwargs: Any):
        """As the base class, but from a checkpoint it and DeepSpeed load only tensors and plain values."""
        with ExitStack() as self._loading:
            self._loading.enter_context(weights_only_loading())
            return super().train(*args, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        output = super()._get_output_dir(trial)
        return str(Path(output) / STAGING) if self._staging else output

    @contextmanager
    def writing(self, target: Path) -> Iterator[None]:
        """Let all ranks agree, at the end of the block, that each has written its part (call it on all ranks).

        Raises:
            SaveError: on all ranks, if one failed. What was being written is removed.
        """
        problem = None
        try:
            yield
        except OSError as error:
            problem = error.strerror or str(error)
        except RuntimeError as error:  # torch reports a full disk as a RuntimeError
            problem = " ".join(str(error).split())[:200]
        problems = [text for text in gather_object([problem]) if text is not None]
        if problems:
            if self.is_world_process_zero():
                shutil.rmtree(Path(self.args.output_dir) / STAGING, ignore_errors=True)
            raise SaveError(f"{target} could not be written: {problems[0]}. Free space and run the same command again.")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        output, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        staged, final = output / STAGING / name, output / name
        with self.writing(final), ExitStack() as stack:
            if self.is_deepspeed_enabled:
                stack.enter_context(stage_by_value())
            stack.callback(setattr, self, "_staging", False)
            self._staging = True
            super()._save_checkpoint(model, trial)
        with self.writing(final):
            if self.is_world_process_zero():
                save_tensors(self.weighter.state_dict(), staged / WEIGHTER_FILE)
                facts = {"step": self.state.global_step, "world_size": self.args.world_size}
                seal(staged, run=self.run_digest, deepspeed=self.is_deepspeed_enabled, **facts)
                publish(staged, final)
                self._discard_older(output, final)

    def _discard_older(self, output: Path, newest: Path) -> None:
        limit = self.args.save_total_limit
        if limit is None or limit <= 0:
            return
        others = [path for path in checkpoint_folders(output) if path != newest]
        for path in others[: len(others) - max(limit - 1, 0)]:
            discard(path, output / STAGING)

    def _load_from_checkpoint(self, checkpoint: str, model: nn.Module | None = None) -> None:
        """Load all weights of a checkpoint.

        A checkpoint has the names of the Hub's files, which differ from those in memory for many families; the stock
        trainer loads by name, merely warns about missing weights, and continues with the base model's weights.
        """
        is_adapter = hasattr(self.model, "peft_config")
        if is_adapter or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_from_checkpoint(checkpoint, model)
            return
        saved, loading = type(self.model).from_pretrained(
            checkpoint, dtype=self.model.dtype, output_loading_info=True, local_files_only=True
        )
        missing = loading["missing_keys"]
        if missing or loading["mismatched_keys"]:
            names = ", ".join(sorted(missing)[:5])
            raise DamagedCheckpointError(f"{checkpoint} lacks {names} or has weights of another shape.")
        self.model.load_state_dict(saved.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        step = 0
        if checkpoint is not None:
            folder = Path(checkpoint)
            self.weighter.load_state_dict(load_tensors(folder / WEIGHTER_FILE))
            step = transformers.TrainerState.load_from_json(str(folder / _TRAINER_STATE)).global_step
        self._started = time.monotonic() - self._task_log.resume(step)
        self._loading.close()  # the model, and DeepSpeed's part, were loaded before
