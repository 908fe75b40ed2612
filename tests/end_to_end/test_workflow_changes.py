"""A job depends on what it reads: which jobs a finished run plans after each kind of change (docs/benchmarks.md)."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from toy_graph import _record, make_toy, plan, run_graph, write_benchmark

MIXED = {"mini", "Vqa-plus-mini", "Box-plus-mini"}
FINAL = {"EW", "VisATB"}
SINGLE = {"STL-Vqa", "STL-Box"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, repository) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    make_toy(folder)
    (folder / "bases/llama").mkdir(parents=True)
    (folder / "bases/llama/model.safetensors").write_bytes(b"weights")
    write_benchmark(folder, prepare=None)
    run_graph(folder, repository)
    return folder


def planned(folder: Path, *more: str) -> dict[str, set[str]]:
    """What a plan would do: models to train, to let answer and to score on a split, and the other jobs."""
    done = plan(folder, "toy.yaml", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout + done.stderr
    found = {"train": set(re.findall(r": train (\S+) \(seed", text))}
    for split in ("val", "test"):
        answers = re.findall(rf"let (\S+) answer the {split} questions", text)
        scores = re.findall(rf"score (\S+) on {split} \(seed", text)
        found |= {f"answers {split}": set(answers), f"scores {split}": set(scores)}
    others = {"subsets": "draw the sub-datasets", "weights": "compute contributions", "report": "write the report"}
    found["others"] = {name for name, words in others.items() if words in text}
    return found


def settings(folder: Path) -> dict:
    return yaml.safe_load((folder / "toy.yaml").read_text())


def edit(folder: Path, name: str) -> None:
    file = folder / "data" / name
    file.write_text(file.read_text().replace(" 7?", " seven?"))


def change_task(folder: Path, number: int, **changes) -> None:
    tasks = settings(folder)["tasks"]
    tasks[number] |= changes
    write_benchmark(folder, tasks=tasks)


def change_recipe(folder: Path, **changes) -> None:
    training = settings(folder)["training"]
    training["environment"] |= changes
    write_benchmark(folder, training=training)


def add_task(folder: Path) -> None:
    files = {}
    for split in ("train", "val", "test"):
        # Ids of Vqa: in a mixed file both become `task/id`, which changes nothing that is learned from Vqa alone.
        records = [_record("New", split, n, "iou") | {"id": f"Vqa-{split}-{n}"} for n in range(40)]
        files[split] = f"New_{split}-40.json"
        (folder / "data" / files[split]).write_text(json.dumps(records))
    tasks = settings(folder)["tasks"]
    write_benchmark(folder, tasks=[*tasks[:2], {"name": "New", "metric": "iou", "files": files}, *tasks[2:]])


def reformat(folder: Path) -> None:
    content = settings(folder)
    content["training"]["environment"]["LEARNING_RATE"] = "0.001"
    text = "# another order, a comment, other spellings\n" + yaml.safe_dump(content, default_flow_style=True)
    (folder / "toy.yaml").write_text(text)
    for file in (folder / "data").iterdir():
        file.touch()


WEIGHED = {"train": {"VisATB"}, "answers test": {"VisATB"}, "scores test": {"VisATB"}, "others": {"weights", "report"}}
ON_VAL = {"answers val": MIXED, "scores val": MIXED}
ON_TEST = {"answers test": {*FINAL, "STL-Box"}, "scores test": {*FINAL, "STL-Box"}}
ALL = {"train": MIXED | FINAL | SINGLE, "answers test": FINAL | SINGLE, "scores test": FINAL | SINGLE}
BOX_TRAIN = {"train": MIXED | FINAL | {"STL-Box"}, "others": {"subsets", "weights", "report"}}
MIXED_NEW = MIXED | {"New-plus-mini"}

CHANGES = {
    "comment, order, spelling, dates of files": (reformat, {}),
    "val file": (lambda f: edit(f, "Box_val-40.json"), WEIGHED | ON_VAL | {"others": {"subsets", "weights", "report"}}),
    "test file": (lambda f: edit(f, "Box_test-40.json"), ON_TEST | {"others": {"subsets", "report"}}),
    "train file": (lambda f: edit(f, "Box_train-40.json"), BOX_TRAIN | ON_VAL | ON_TEST),
    "train file of a task that is not measured": (
        lambda f: edit(f, "Chat_train-40.json"),
        BOX_TRAIN | {"train": MIXED | FINAL, "answers test": FINAL, "scores test": FINAL} | ON_VAL,
    ),
    "metric": (
        lambda f: change_task(f, 0, metric="cider"),
        WEIGHED | {"scores val": MIXED, "scores test": FINAL | {"STL-Vqa"}},
    ),
    "further metric": (
        lambda f: change_task(f, 0, also=["gleu"]),
        {"scores test": FINAL | {"STL-Vqa"}, "others": {"report"}},
    ),
    "longest answer": (
        lambda f: change_task(f, 1, max_new_tokens=9),
        WEIGHED | ON_VAL | ON_TEST,
    ),
    "fixed weight": (lambda f: change_task(f, 2, weight=0.5), WEIGHED),
    "mini rate": (
        lambda f: write_benchmark(f, mini_rate=0.5),
        WEIGHED | ON_VAL | {"train": {*MIXED, "VisATB"}, "others": {"subsets", "weights", "report"}},
    ),
    "large rate": (
        lambda f: write_benchmark(f, large_rate=0.5),
        WEIGHED
        | dict.fromkeys(("answers val", "scores val"), MIXED - {"mini"})
        | {"train": MIXED - {"mini"} | {"VisATB"}, "others": {"subsets", "weights", "report"}},
    ),
    "temperature": (lambda f: write_benchmark(f, temperature=0.25), WEIGHED),
    "alpha": (lambda f: write_benchmark(f, alpha=[0.5, 0.5, 0.0]), WEIGHED),
    "on_failed": (lambda f: write_benchmark(f, on_failed="clip"), WEIGHED),
    "bootstrap": (lambda f: write_benchmark(f, bootstrap=10), WEIGHED),
    "recipe": (lambda f: change_recipe(f, LEARNING_RATE=2e-3), ALL | ON_VAL | {"others": {"weights", "report"}}),
    "variable of one's own": (lambda f: change_recipe(f, MINE="x"), ALL | ON_VAL | {"others": {"weights", "report"}}),
    "base model": (
        lambda f: (f / "bases/llama/model.safetensors").write_bytes(b"other"),
        ALL | ON_VAL | {"others": {"weights", "report"}},
    ),
    "what is saved and shown": (lambda f: change_recipe(f, SAVE_STEPS=5, LOGGING_STEPS=9, REPORT_TO="none"), {}),
    "inference": (
        lambda f: write_benchmark(f, inference={"script": "infer.py", "speed": 2}),
        WEIGHED | ON_VAL | dict.fromkeys(("answers test", "scores test"), FINAL | SINGLE),
    ),
    "place of the inference": (
        lambda f: write_benchmark(f, inference={"script": "infer.py", "threads": 2, "launcher": "python3"}),
        {},
    ),
    "place of the data": (
        lambda f: ((f / "data").rename(f / "moved"), write_benchmark(f, data_folder="moved")),
        {"others": {"subsets"}},
    ),
    "models are deleted from now on": (
        lambda f: write_benchmark(f, training=settings(f)["training"] | {"keep_models": False}),
        {},
    ),
    "judge that judges nothing": (lambda f: write_benchmark(f, judge={"judge-model": "m"}), {}),
    "baseline that is not asked for": (lambda f: write_benchmark(f, baselines=["TLA"]), {}),
    "added task": (
        add_task,
        {
            "train": {*MIXED_NEW, *FINAL, "STL-New"},
            **dict.fromkeys(("answers val", "scores val"), MIXED_NEW),
            **dict.fromkeys(("answers test", "scores test"), {*FINAL, "STL-New"}),
            "others": {"subsets", "weights", "report"},
        },
    ),
    "removed task": (
        lambda f: write_benchmark(f, tasks=[task for task in settings(f)["tasks"] if task["name"] != "Box"]),
        {
            "train": {"mini", "Vqa-plus-mini", *FINAL},
            **dict.fromkeys(("answers val", "scores val"), {"mini", "Vqa-plus-mini"}),
            **dict.fromkeys(("answers test", "scores test"), FINAL),
            "others": {"subsets", "weights", "report"},
        },
    ),
    "order of the tasks": (
        lambda f: write_benchmark(f, tasks=settings(f)["tasks"][::-1]),
        WEIGHED
        | ON_VAL
        | {"train": MIXED | FINAL, "others": {"subsets", "weights", "report"}}
        | dict.fromkeys(("answers test", "scores test"), FINAL),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_repeats_what_reads_it_and_nothing_else(name, finished, tmp_path):
    change, expected = CHANGES[name]
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    change(folder)
    found = planned(folder)
    assert found == {key: set() for key in found} | expected


def test_another_seed_repeats_the_preparation_alone(finished):
    found = planned(finished, "--config", "seeds=[0,1]")
    assert found == {"train": MIXED, "answers test": set(), "scores test": set()} | ON_VAL | {
        "others": {"subsets", "weights", "report"}
    }


def test_an_added_task_trains_what_holds_it_and_the_report_is_written(finished, tmp_path, repository):
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    before = len((folder / "calls.log").read_text().splitlines())
    add_task(folder)
    run_graph(folder, repository)
    trained = [line.split()[0] for line in (folder / "calls.log").read_text().splitlines()[before:]]
    assert sorted(trained) == sorted({*MIXED_NEW, *FINAL, "STL-New"})
    assert "New" in (folder / "runs/toy/report.html").read_text()
    (folder / "runs/toy/seed0/done/train_STL-Vqa.json").unlink()
    run_graph(folder, repository)
    assert len((folder / "calls.log").read_text().splitlines()) == before + len(trained), (
        "what is there is trained again"
    )


def test_a_mistake_in_the_data_repeats_nothing_once_it_is_corrected(finished, tmp_path, repository):
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    file = folder / "data/Box_test-40.json"
    good = file.read_text()
    file.write_text(good.replace('"one.png"', '"none.png"', 1))
    failed = run_graph(folder, repository, "--cores", "1", check=False)
    assert failed.returncode != 0 and "none.png" in failed.stderr
    file.write_text(good)
    found = planned(folder)
    assert found == {key: set() for key in found} | {"others": {"subsets"}}
