"""Generates one model's answers to the questions of a split, in one call of inference_visatb.py.

python -m scripts_visatb.workflow.infer --benchmark B.yaml --run runs/demo --seed 0 --model mini --split val
"""

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from scripts_visatb.workflow.graph import PLACEMENT_KEYS
from scripts_visatb.workflow.models import Model, models_of
from scripts_visatb.workflow.places import Run, model_place
from scripts_visatb.workflow.serve import merged, servable, serving
from scripts_visatb.workflow.step import find_script, run_of, run_program, step_parser
from visatb.benchmark import Benchmark
from visatb.cli import run
from visatb.environments import VARIABLE, python_of_current_models
from visatb.errors import InputError
from visatb.inference_section import HF, SERVER

SCRIPT = "inference_visatb.py"


def inference_command(current: Run, model: Model, split: str, asked: Mapping[str, Any]) -> list[str]:
    """The command that answers all questions of a split.

    The benchmark's `inference` section gives its flags by name; besides them `launcher` replaces `python` (for example
    `torchrun --nproc_per_node 8`) and `script` the program.

    Args:
        current, model, split: the run, the model and the questions.
        asked: the flags of `asked_model`.
    """
    tasks = model.tasks(split)
    settings = dict(current.benchmark.inference)
    script = find_script(settings.pop("script", SCRIPT))
    launcher = shlex.split(settings.pop("launcher", None) or interpreter(current.benchmark))
    for key in (*PLACEMENT_KEYS, "start", *asked):
        settings.pop(key, None)
    # Models end their answers themselves; the largest limit of the tasks is an upper bound for all.
    settings.setdefault("max_new_tokens", max(task.max_new_tokens for task in tasks))
    return [
        *launcher,
        str(script),
        *[word for name, value in asked.items() for word in flag_words(name, value)],
        "--model-name",
        model.name,
        "--image-folder",
        current.benchmark.image_folder,
        "--question-file",
        *dict.fromkeys(str(current.question_file(split, task)) for task in tasks),  # tasks may share one
        "--overwrite",  # answers of an earlier training of the model are replaced
        "--answers-folder",
        str(current.answers(model.name, split)),
        *[word for name, value in settings.items() for word in flag_words(name, value)],
    ]


def engine_of(benchmark: Benchmark) -> str | None:
    """The engine that a benchmark names; None for the default, and for a user's own program."""
    return None if "script" in benchmark.inference else benchmark.inference.get("engine")


def interpreter(benchmark: Benchmark) -> str:
    """The Python interpreter of inference, as a word of a command line: for current models that of their environment.

    As in finetune_hf.sh: PYTHON_HF, of `training.environment` first, else that of .venv-hf in the checkout, else ours.
    """
    if engine_of(benchmark) != HF:
        return shlex.quote(sys.executable)
    recipe = benchmark.training.get("environment") or {}
    return shlex.quote(python_of_current_models(recipe.get(VARIABLE)))


@contextmanager
def asked_model(current: Run, model: Model, purpose: str) -> Iterator[dict[str, Any]]:
    """The flags of the engine and the model; with engine server, the model is served inside the context.

    Args:
        current, model: which model.
        purpose: name of this step, unique among concurrent steps with the same model.
    """
    path, base = model_place(current, model)
    given, engine = current.benchmark.inference, engine_of(current.benchmark)
    copy = current.home / "served" / f"{model.name}_{purpose}"
    if engine != SERVER:
        with merged(path, base, copy) if model.measure.merge and base else nullcontext((path, base)) as (place, below):
            yield {"model-path": place, "model-base": below} | ({"engine": engine} if engine else {})
        return
    log = current.folder / "logs" / f"seed{current.seed}_server_{model.name}_{purpose}.log"
    with (
        servable(path, base, copy) as whole,
        serving(given["start"], whole, log) as url,
    ):
        ways = {key: given.get(key) for key in ("concurrency", "retries", "timeout")}
        yield {"engine": SERVER, "server-url": url, "server-model": whole, **ways}


def infer(current: Run, model: Model, split: str) -> int:
    """Answer all questions of a split; returns the exit code.

    Raises:
        InputError: the model does not exist, or an answer file is missing at the end.
    """
    folder = current.model(model.name)
    if model.data is not None and not (folder / "config.json").is_file():
        done = current.done(f"train_{model.name}")
        raise InputError(f"{folder}: no model: it was trained and then removed. Delete {done} to train it again.")
    with asked_model(current, model, split) as asked:
        code = run_program(inference_command(current, model, split, asked))
    if code == 0:
        for task in model.tasks(split):
            if not (path := current.answer_file(model.name, split, task)).is_file():
                raise InputError(f"{path}: inference did not write it. See its output above.")
    return code


def flag_words(name: str, value: Any) -> list[str]:
    """A command-line flag from a key of a benchmark's section: true is a bare flag, false and null omit it."""
    if value is None or value is False:
        return []
    if value is True:
        return [f"--{name}"]
    return [f"--{name}", *map(str, value if isinstance(value, list) else [value])]


def main() -> int:
    """Command line."""
    args = step_parser(__doc__, split=True).parse_args()
    current = run_of(args)
    return infer(current, models_of(current.benchmark)[args.model], args.split)


if __name__ == "__main__":
    run(main)
