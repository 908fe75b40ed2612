"""A made-up benchmark whose run graph is tested, and what its jobs are given."""

from pathlib import Path

from scripts_visatb.workflow import graph, models, places
from scripts_visatb.workflow.infer import asked_model, inference_command
from scripts_visatb.workflow.train import (
    training_environment,
)
from visatb.benchmark import Benchmark, Task

FILES = {"train": "x_train-9.json", "val": "x_val-9.json", "test": "my_x_test-9.json"}


def benchmark(**changes) -> Benchmark:
    settings = {
        "path": Path("b.yaml"),
        "name": "toy",
        "tasks": (
            Task("A", "cider", FILES, max_new_tokens=64),
            Task("Talk", None, {"train": "t.json"}, weight=0.7),
            Task("B", "iou", FILES, max_new_tokens=24),
        ),
        "mini_rate": 0.1,
        "large_rate": 1.0,
        "temperature": 0.5,
        "alpha": (0.25, 0.25, 0.5),
        "data_folder": "data",
        "image_folder": "images",
        "training": {"script": "train.sh", "environment": {"LEARNING_RATE": 1e-3, "FREEZE": True}},
        "inference": {"batch_size": 8, "launcher": "torchrun --nproc_per_node 2", "threads": 4, "overwrite_all": False},
    }
    return Benchmark(**(settings | changes))


def model(current: places.Run, name: str) -> models.Model:
    return models.models_of(current.benchmark)[name]


def trained_by(given: Benchmark, name: str = "mini") -> str:
    return graph.training_settings(given, models.models_of(given)[name], {})


def environment(current: places.Run, name: str) -> dict[str, str]:
    return training_environment(current, model(current, name))


def command(current: places.Run, name: str, split: str) -> list[str]:
    with asked_model(current, model(current, name), split) as asked:
        return inference_command(current, model(current, name), split, asked)
