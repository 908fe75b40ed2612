"""Mutated benchmark files for `benchmark show` and the plan of the run graph.

A file must be refused where a rule below is broken, which are written down here anew, and of one that is accepted the
plan names every model to train: a mistake that only a training would notice is wrong.
"""

import json
import math
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from scripts_visatb.workflow import cost as show
from scripts_visatb.workflow import run as graph
from tests.stress.mutators import NotJsonError, mutated, same, strict
from tests.stress.trials import ACCEPTED, Trial, call, verdict

COUNT = 300
ROOT = Path(__file__).resolve().parents[2]
_SCALAR = re.compile(r'(?<=: )("(?:[^"\\]|\\.)*"|-?\d[\d.e+-]*|true|false)')
_KEY = re.compile(r'"(\w+)": ')
_TYPED = ("2024_11", "2024.10", "007", "1e3", "yes", "~", "2024-11-01", "!!python/name:os.system x", "&a b", "*a",
          ".nan", ".inf", "0x" + "f" * 5000, "!!binary aGk=", "12:30:45", "'{seed}'", "\"it's\"", "-n", "../x",
          "EW", "mini", "A-plus-mini", "STL-A", "{x: 1}", "[1, 2]")  # fmt: skip
_ABLATIONS = [{"name": "hot", "temperature": 2.0}, {"name": "x", "form": "precise"}]
_LABEL = re.compile(r"[\w.-]{1,100}")
_SPLITS = ("train", "val", "test")
_OWN = ("DATA_PATH", "IMAGE_FOLDER", "OUTPUT_DIR", "BENCHMARK", "SEED", "WEIGHT_METHOD", "VISATB_WEIGHTS", "PATH")


def trials(count: int, seed: str, folder: Path) -> Iterator[Trial]:
    """`count` mutated files for both commands."""
    original = _make(folder)
    # The plan is another process, which finds the checkout by this.
    with chdir(folder), mock.patch.dict(os.environ, {"PYTHONPATH": str(ROOT)}):
        for n in range(count):
            what, content = _mutated(original, random.Random(f"{seed} {n}"))
            (folder / "mix.yaml").write_bytes(content)
            value, fault = _read(content)
            must_accept = fault is None and _means(value, json.loads(original))
            yield _trial("benchmark show", show.main, ["show", "mix.yaml"], what, content, fault, must_accept, None)
            words = ["--benchmark", "mix.yaml", "-n", "all"]
            yield _trial("plan", graph.main, words, what, content, fault, must_accept, value)


def _trial(
    name: str,
    main: Callable[[], int | None],
    argv: list[str],
    what: str,
    content: bytes,
    fault: str | None,
    must_accept: bool,
    value: Any,
) -> Trial:
    ended = call(main, argv)
    wrong = lambda: None if value is None else _missing_models(ended.out, value)  # noqa: E731
    found, why = verdict(ended, fault, must_accept, wrong)
    if found == ACCEPTED and any(len(line) > 2000 for line in ended.err.splitlines()):
        found, why = "wrong", "a line of unbearable length"
    return Trial(name, what, found, why, content)


def _missing_models(plan: str, value: dict) -> str | None:
    names = ["EW", "VisATB", *(f"STL-{task['name']}" for task in value["tasks"] if task.get("metric") is not None)]
    names += [entry["name"] for entry in value.get("ablations") or []]
    names += [method.rpartition(":")[2] for method in value.get("baselines") or []]
    missing = [name for name in names if f"train {name} (seed {value.get('seed', 0)})\n" not in plan]
    return f"the plan lacks {', '.join(missing)}" if missing else None


def _make(folder: Path) -> str:
    """The data of a benchmark of three tasks; returns its file as text."""
    tasks = [{"name": "A", "metric": "exact_match"}, {"name": "B", "metric": "iou", "also": ["gleu"]}]
    tasks.append({"name": "Chat", "weight": 1.0})
    for task in tasks:
        task["files"] = {split: f"{task['name']}_{split}-4.json" for split in _SPLITS[: 3 if "metric" in task else 1]}
        for split, name in task["files"].items():
            turns = [{"from": "human", "value": f"What, {split}?"}, {"from": "gpt", "value": "red"}]
            records = [{"id": n, "task": task["name"], "conversations": turns} for n in range(4)]
            (folder / name).write_text(json.dumps(records))
    environment = {"BASE_MODEL_PATH": "base/llama", "LEARNING_RATE": 1.5e-3, "NUM_TRAIN_EPOCHS": 1, "NUM_GPUS": 0}
    environment |= {"PER_DEVICE_TRAIN_BATCH_SIZE": 2, "GRADIENT_CHECKPOINTING": "False", "REPORT_TO": "none"}
    content = {"name": "mix", "data_folder": ".", "image_folder": ".", "tasks": tasks, "mini_rate": 0.25}
    content |= {"large_rate": 1.0, "temperature": 0.5, "alpha": [0.25, 0.25, 0.5], "seed": 0, "bootstrap": 100}
    content |= {
        "baselines": ["TLA"],
        "ablations": [{"name": "hot", "temperature": 2.0}, {"name": "x", "form": "precise"}],
    }
    content |= {"training": {"script": "scripts_visatb/finetune_academic.sh", "environment": environment, "gpus": 0}}
    content |= {"inference": {"batch-size": 4, "dtype": "float32"}, "on_failed": "fail", "form": "standard"}
    return json.dumps(content, indent=1)


def _mutated(text: str, chance: random.Random) -> tuple[str, bytes]:
    """A mutation of JSON, or a value as YAML alone knows it."""
    if chance.random() < 0.6:
        return mutated(text, chance)
    match = chance.choice(list(_SCALAR.finditer(text)))
    value = chance.choice(_TYPED)
    key = [found[1] for found in _KEY.finditer(text[: match.start()])][-1]
    return f"{key}: {value[:30]}", (text[: match.start()] + value + text[match.end() :]).encode()


def _read(content: bytes) -> tuple[Any, str | None]:
    """What the file says, and why it must be refused."""
    try:
        value = yaml.safe_load(content.decode("utf-8-sig"))
    except (yaml.YAMLError, ValueError, RecursionError, LookupError, AttributeError) as error:
        return None, f"no YAML: {error!r:.60}"
    try:
        strict(content)
    except NotJsonError as error:
        if "twice" in str(error):
            return value, "a key twice"
    return value, _fault(value) if isinstance(value, dict) else "no mapping"


def _fault(value: dict) -> str | None:
    tasks = value.get("tasks")
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, dict) for task in tasks):
        return "no tasks"
    if any(not isinstance(value.get(key) or [], list) for key in ("ablations", "baselines")):
        return "no list"
    labels = [value.get("name"), *(task.get("name") for task in tasks)]
    labels += [entry.get("name") for entry in value.get("ablations") or [] if isinstance(entry, dict)]
    if not all(isinstance(name, str) and _LABEL.fullmatch(name) and name[0] not in ".-" for name in labels):
        return "a name that is none"
    names, measured = labels[1 : 1 + len(tasks)], [task["name"] for task in tasks if task.get("metric") is not None]
    derived = [form.format(name) for form in ("{}-plus-mini", "{}-mini", "STL-{}", "mini-STL-{}") for name in measured]
    taken = {"mini", "base", "full", "EW", "VisATB", *derived, *labels[1 + len(tasks) :]}
    if len(set(names)) < len(names) or taken & set(names):
        return "a name twice"
    for task in tasks:
        needed = _SPLITS if task.get("metric") is not None else ("train",)
        files = task.get("files")
        if not isinstance(files, dict) or not all(isinstance(files.get(split), str) for split in needed):
            return "no files"
    for key in ("mini_rate", "large_rate"):
        rate = value.get(key, 1.0)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
            return key
    return _training_fault(value.get("training") or {})


def _training_fault(training: Any) -> str | None:
    environment = (training.get("environment") or {}) if isinstance(training, dict) else None
    if not isinstance(environment, dict):
        return "training"
    for name, value in environment.items():
        if not isinstance(name, str) or name in _OWN or value is None or isinstance(value, dict):
            return f"variable {name!r:.40}"
        if isinstance(value, float) and not math.isfinite(value):
            return f"variable {name!r:.40}"
        if name in ("BASE_MODEL_PATH", "VISION_TOWER", "PRETRAIN_MM_MLP_ADAPTER") and not isinstance(value, str):
            return f"variable {name} must be text"
    return None


def _means(value: Any, original: Any) -> bool:
    try:
        return same(json.loads(json.dumps(value, default=str)), original)
    except ValueError:  # a whole number of thousands of digits
        return False
