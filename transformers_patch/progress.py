"""What a training shows on the terminal, and whether the trackers that were asked for are there."""

import os
from collections.abc import Sequence
from typing import Any

from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK, is_tensorboard_available, is_wandb_available

_AVAILABLE = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}


class LossOnProgressBar(ProgressCallback):
    """transformers' bar of steps and time left, with the loss and the learning rate behind it.

    transformers itself prints every set of logged values as a line above the bar, which with a dozen values per task
    leaves nothing to read; they go to the log file and the trackers.
    """

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the newest loss; values that come without one (the summary at the end) are printed."""
        if not logs or "loss" not in logs:
            super().on_log(args, state, control, logs=logs, **kwargs)
        elif self.training_bar is not None:
            text = f"loss {logs['loss']:.4f}, lr {logs['learning_rate']:.2e}"
            self.training_bar.set_postfix_str(text, refresh=False)  # the next step's update shows it


def check_trackers(report_to: Sequence[str]) -> None:
    """Refuse a tracker that transformers does not know, or whose package is not installed.

    Args:
        report_to: names as `--report_to` has them.

    Raises:
        ValueError: names the tracker and how to install it.
    """
    for name in report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(_AVAILABLE)
            raise ValueError(f"report_to must be none or trackers such as {known}, got {name!r}. Choose one.")
        if name in _AVAILABLE and not _AVAILABLE[name]():
            disabled = " and unset WANDB_DISABLED" if name == "wandb" and os.environ.get("WANDB_DISABLED") else ""
            raise ValueError(f"report_to {name} needs a package. Run pip install {name}{disabled}, or leave it out.")
