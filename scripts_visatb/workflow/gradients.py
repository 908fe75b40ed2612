"""Approximates the inter-task contributions from gradients at the `mini` model (`measure: gradient`): one command.

python -m scripts_visatb.workflow.gradients --benchmark B.yaml --run runs/demo --seed 0
"""

import sys
from collections.abc import Mapping
from typing import Any

from scripts_visatb.data.mixes import read_manifest
from scripts_visatb.workflow.infer import flag_words
from scripts_visatb.workflow.models import MINI, models_of
from scripts_visatb.workflow.places import Run, model_place
from scripts_visatb.workflow.step import run_of, run_program, step_parser
from visatb.cli import run
from visatb.errors import InputError

# Variable of the training scripts -> flag of llava.train.contributions with the same meaning.
_OF_RECIPE = {
    "MODEL_MAX_LENGTH": "model_max_length",
    "PROMPT_VERSION": "version",
    "IMAGE_ASPECT_RATIO": "image_aspect_ratio",
}


def gradients_command(current: Run) -> list[str]:
    """The command that measures the contributions of a seed.

    Raises:
        InputError: the mini model does not exist.
    """
    mini = models_of(current.benchmark)[MINI]
    folder = current.model(mini.name)
    if not (folder / "config.json").is_file():
        done = current.done(f"train_{mini.name}")
        raise InputError(f"{folder}: no model: it was trained and then removed. Delete {done} to train it again.")
    path, base = model_place(current, mini)
    recipe = current.benchmark.training.get("environment") or {}
    flags = {
        "model-path": path,
        "model-base": base,
        "benchmark": current.benchmark.path,
        "data_path": current.subsets / read_manifest(current.subsets)["files"][mini.data]["file"],
        "output": current.gradients,
        "seed": current.seed,
        "step_size": _step_size(recipe, current.benchmark.training.get("gpus", 0)),
        **{flag: recipe[name] for name, flag in _OF_RECIPE.items() if name in recipe},
        **current.benchmark.measure.flags,
    }
    words = [word for name, value in flags.items() for word in flag_words(name, value)]
    return [sys.executable, "-m", "llava.train.contributions", *words]


def _step_size(recipe: Mapping[str, Any], gpus: int) -> int:
    """Samples per optimizer step of the trainings."""
    per_device = int(recipe.get("PER_DEVICE_TRAIN_BATCH_SIZE", 16))
    return per_device * int(recipe.get("GRADIENT_ACCUMULATION_STEPS", 1)) * max(1, gpus)


def main() -> int:
    """Command line."""
    return run_program(gradients_command(run_of(step_parser(__doc__).parse_args())))


if __name__ == "__main__":
    run(main)
