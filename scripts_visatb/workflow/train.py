"""Trains one model of the graph: calls the benchmark's training script with that model's data and weights.

    python -m scripts_visatb.workflow.train --benchmark B.yaml --run runs/demo --seed 0 --model mini

A killed training is resumed by the script itself. A model that was trained with other settings is moved aside
(`models/superseded/`), never overwritten or deleted.
"""

import os
import shutil
import sys
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

from scripts_visatb.data.mixes import read_manifest
from scripts_visatb.workflow.graph import data_key, mix_of, result_settings, settings_key, short_key, task_weights
from scripts_visatb.workflow.job import exclusive
from scripts_visatb.workflow.models import EW, Model, models_of
from scripts_visatb.workflow.places import Run
from scripts_visatb.workflow.sources import DIGESTS, base_stamps, data_digests, refuse_other_tokenizer
from scripts_visatb.workflow.step import find_script, run_of, run_program, step_parser
from visatb.cli import run
from visatb.errors import InputError
from visatb.files import read_json, write_json
from visatb.sampling import PROPORTIONAL
from visatb.training_section import RECIPE_VARIABLES, as_text

KEPT = ("train_log.jsonl",)  # of a model whose weights are deleted: the report draws it


def training_environment(current: Run, model: Model) -> dict[str, str]:
    """The environment variables of the training script for a model.

    Raises:
        InputError: the weights do not exist.
    """
    benchmark = current.benchmark
    given = model.measure.training(benchmark.training).get("environment") or {}
    entry = read_manifest(current.subsets)["files"][model.data]
    weights = model_weights(current, model)
    return (
        {name: as_text(value) for name, value in given.items()}
        | {
            "DATA_PATH": str(current.subsets / entry["file"]),
            "IMAGE_FOLDER": benchmark.image_folder,
            "OUTPUT_DIR": str(current.model(model.name)),
            "BENCHMARK": str(benchmark.path),
            "SEED": str(current.seed),
            "WEIGHT_METHOD": model.method,
            "VISATB_WEIGHTS": "" if weights is None else " ".join(map(repr, weights)),
        }
        | ({} if model.sampling == PROPORTIONAL else {"TASK_SAMPLING": model.sampling})
    )


def model_weights(current: Run, model: Model) -> list[float] | None:
    """The task weights that a model is trained with, in id order: from its weights.json, or equal ones.

    None for weight methods other than EW, which compute their own.
    """
    if model.method != EW:
        return None
    if model.weighting is None:
        return [1.0] * len(current.benchmark.tasks)
    return task_weights(current.benchmark, read_json(current.training_weights(model.name))["weights"])


def fingerprint(current: Run, model: Model) -> dict[str, Any]:
    """Everything the graph passes to the training that affects its result; data and base model by content, not by path.

    Only tasks and weights of the model's own data count: another task in the mix does not change single-task models.
    """
    tasks = list(mix_of(current.benchmark, model))
    weights = model_weights(current, model)
    training = model.measure.training(current.benchmark.training)
    by_task = None if weights is None else dict(zip(current.benchmark.task_names, weights, strict=True))
    return {
        "data": learned_from(current, model),
        "tasks": tasks,
        "method": model.method,
        "weights": None if by_task is None else [by_task[task] for task in tasks],
        "seed": current.seed,
        "training": result_settings(training),
        "base": base_stamps(training),
    } | ({} if model.sampling == PROPORTIONAL else {"sampling": model.sampling})


def learned_from(current: Run, model: Model) -> str:
    """A digest of a model's data; of data that `prepare` makes, the digest of the training file."""
    digests = data_digests(current.benchmark, current.folder / DIGESTS)
    if not digests:
        return read_manifest(current.subsets)["files"][model.data]["sha256"]
    return short_key(settings_key(data_key(current.benchmark, model, digests)))


def resumes_from(current: Run, model: Model) -> dict[str, Any]:
    """What must be unchanged, besides its fingerprint, for a training to resume from a checkpoint."""
    entry = read_manifest(current.subsets)["files"][model.data]
    return {"file": entry["sha256"], "tasks": current.benchmark.task_names}


def settings_note(current: Run, model: str) -> Path:
    """What a model was trained with, and whether its training is finished."""
    return current.model(model).with_name(f"{model}.settings.json")


def is_current(current: Run, model: Model) -> bool:
    """Whether a model was trained with the current settings and weights."""
    note = settings_note(current, model.name)
    if not note.is_file() or model.weighting is not None and not current.training_weights(model.name).is_file():
        return False
    return read_json(note) == {"settings": fingerprint(current, model), "finished": True}


def train(current: Run, model: Model) -> int:
    """Train a model unless that is done; returns the script's exit code.

    Raises:
        InputError: the benchmark names no training script, or the script succeeds without writing a model.
    """
    name = model.measure.training(current.benchmark.training).get("script")
    if name is None:
        raise InputError(f"{current.benchmark.path}: training.script must name a finetune script. Set it.")
    refuse_other_tokenizer(current.benchmark)  # `prepare` may have made the models since the plan
    folder = current.model(model.name)
    note = settings_note(current, model.name)
    # While sub-datasets are drawn again for other models, they do not exist.
    with exclusive(current.done(".subsets").with_suffix(".lock"), wait=inf):
        environment = training_environment(current, model)
        wanted = fingerprint(current, model)
        same_mix = resumes_from(current, model)
    earlier = read_json(note) if note.is_file() else None
    if earlier is not None and (
        earlier["settings"] != wanted or not earlier["finished"] and earlier.get("resumes_from") != same_mix
    ):
        _move_aside(folder)
    elif earlier is not None and earlier["finished"] and (folder / "config.json").is_file():
        print(f"{folder}: already trained with these settings", flush=True)
        return 0
    elif earlier is not None and earlier["finished"]:
        discard(current, model.name, keep=())  # the remains of a model whose weights were deleted
    write_json(note, {"settings": wanted, "finished": False, "resumes_from": same_mix})
    # The recipe comes from the benchmark file alone: a variable that happens to be set in the caller's shell would
    # change the models without being recorded.
    inherited = {name: value for name, value in os.environ.items() if name not in RECIPE_VARIABLES}
    inherited.setdefault("PYTHON", sys.executable)
    code = run_program(["bash", str(find_script(name))], inherited | environment)
    if code == 0:
        if not (folder / "config.json").is_file():
            raise InputError(f"{name}: ended without a model in {folder}. The script must save to OUTPUT_DIR.")
        write_json(note, {"settings": wanted, "finished": True})
    return code


def _move_aside(folder: Path) -> None:
    if not folder.is_dir():
        return
    attic = folder.parent / "superseded"
    attic.mkdir(exist_ok=True)
    places = (attic / f"{folder.name}.{number}" for number in count(1))
    target = next(place for place in places if not place.exists())
    folder.rename(target)
    print(f"{folder}: was trained with other settings; moved to {target} (delete it if you do not need it)", flush=True)


def discard(current: Run, model: str, keep: tuple[str, ...] = KEPT) -> None:
    """Delete a scored model: its folder except the files named in `keep`."""
    folder = current.model(model)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in keep:
            path.unlink()


def main() -> int:
    """Command line."""
    parser = step_parser(__doc__)
    parser.add_argument("--model", required=True, help="name of the model (models.py)")
    parser.add_argument("--discard", action="store_true", help="delete the model's weights; its training log stays")
    args = parser.parse_args()
    current = run_of(args)
    model = models_of(current.benchmark)[args.model]
    if args.discard:
        discard(current, model.name)
        return 0
    return train(current, model)


if __name__ == "__main__":
    run(main)
