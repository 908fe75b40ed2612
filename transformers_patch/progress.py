"""Progress bar of a training, and the check that the requested trackers are installed."""

import os
from collections.abc import Sequence
from typing import Any

from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments, integrations
from transformers.integrations import INTEGRATION_TO_CALLBACK

# Tracker -> transformers' question whether its package is there, what to install, the variable that turns it off.
_TRACKERS = {
    "azure_ml": (integrations.is_azureml_available, "azureml-core", ""),
    "clearml": (integrations.is_clearml_available, "clearml", ""),
    "codecarbon": (integrations.is_codecarbon_available, "codecarbon", ""),
    "comet_ml": (integrations.is_comet_available, "comet_ml", "COMET_MODE"),
    "dagshub": (integrations.is_dagshub_available, "dagshub mlflow", ""),
    "flyte": (integrations.is_flytekit_available, "flytekit", ""),
    "mlflow": (integrations.is_mlflow_available, "mlflow", "DISABLE_MLFLOW_INTEGRATION"),
    "neptune": (integrations.is_neptune_available, "neptune", ""),
    "tensorboard": (integrations.is_tensorboard_available, "tensorboard", ""),
    "wandb": (integrations.is_wandb_available, "wandb", "WANDB_DISABLED"),
}


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
            known = ", ".join(sorted(_TRACKERS))
            raise ValueError(f"report_to must be none, all or some of {known}, got {name[:200]!r}. Choose one.")
        is_available, package, switch = _TRACKERS[name]
        if not is_available():
            disabled = f" and unset {switch}" if os.environ.get(switch) else ""
            raise ValueError(f"report_to {name} needs a package. Run pip install {package}{disabled}, or leave it out.")
