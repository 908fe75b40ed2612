"""A study of measures: what agrees with what, what it cost, and which measures are refused."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts_visatb import study
from scripts_visatb.pictures.measures import draw_measures
from scripts_visatb.study_measures import (
    agreement,
    pearson,
    share_of_ceiling,
    spearman,
    study_of_measures,
    tables_of_measures,
    values_of,
)
from scripts_visatb.workflow.places import Run
from visatb.benchmark import Benchmark, Task, load_benchmark
from visatb.errors import InputError
from visatb.measure_section import read_measure

TASKS = ("A", "B", "C")
FILES = {split: f"{split}.json" for split in ("train", "val", "test")}


def content(scale: float, turn: float = 0.0) -> dict:
    """A weights.json whose quantities grow with the task, each by `scale`, the second by `turn`."""
    levels = [0.1 * scale, 0.2 * scale + turn, 0.3 * scale]
    matrix = [[1.0 if i == j else levels[i] - 0.01 * j for j in range(3)] for i in range(3)]
    return {
        "tasks": list(TASKS),
        "contributions": matrix,
        "contribution_out": levels,
        "contribution_in": levels[::-1],
        "difficulty": levels,
        "weights": dict(zip(TASKS, [1 - levels[0], 1.0, 1 + levels[2]], strict=True)) | {"Talk": 1.0},
    }


@pytest.fixture
def found(tmp_path):
    """Two seeds: `short` is `full` stretched, the gradient's order of the tasks is another."""
    runs = {}
    for kind, measure in (("full", "full"), ("short", {"short": {"samples_per_task": 9}}), ("gradient", "gradient")):
        tasks = tuple(Task(name, "iou", FILES) for name in TASKS) + (Task("Talk", None, {"train": "t"}, 1.0),)
        benchmark = Benchmark("mix", tasks, "d", "i", 0.1, measure=read_measure(measure))
        for seed in (0, 1):
            current = runs[kind, seed] = Run(benchmark, tmp_path / "mix", seed)
            current.home.mkdir(parents=True, exist_ok=True)
            scale = {"full": 1.0, "short": 2.0, "gradient": -1.0}[kind] * (1 + 0.1 * seed)
            current.weights().write_text(json.dumps(content(scale)))
            (current.home / "done").mkdir(exist_ok=True)
            for model in ("mini", "base", *(f"{start}{t}-plus-mini" for t in TASKS for start in ("", "short-"))):
                for job in (f"train_{model}", f"infer_{model}_val", f"score_{model}_val"):
                    current.done(job).write_text(json.dumps({"seconds": 3.0 if model.startswith("short") else 10.0}))
            current.done("gradients").write_text(json.dumps({"seconds": 7.0}))
    samples = {"full": 1000.0, "short": 250.0, "gradient": 50.0}
    about = {"command": "visatb study", "processor": "a processor", "date": "2026-01-01"}
    return study_of_measures(runs, samples) | about


def test_agreement_is_with_the_measure_full_of_other_seeds(found):
    measures = found["measures"]
    assert measures["full"]["agreement"]["weights"]["spearman"] == pytest.approx(1.0)
    assert measures["short"]["agreement"]["difficulty"]["pearson"] == pytest.approx(1.0)
    assert measures["gradient"]["agreement"]["contribution_out"]["spearman"] == pytest.approx(-1.0)
    # Weights of 1 - x, 1, 1 + 3x at x = 0.1 and 0.11: full of one seed and of the other, both ways.
    assert measures["full"]["agreement"]["weights"]["difference"] == pytest.approx((0.01 + 0.03) / 3)
    assert share_of_ceiling(measures, "gradient", "weights", "pearson") == pytest.approx(-1.0)


def test_cost_is_that_of_the_steps_a_measure_needs(found):
    measures = found["measures"]
    assert measures["full"]["seconds"] == 4 * 30
    assert measures["short"]["seconds"] == 30 + 3 * 9 and measures["short"]["cost"]["samples"] == 0.25
    assert measures["gradient"]["seconds"] == 7 + 30 + 20  # gradients, mini, answers and scores of the base


def test_the_tables_have_every_measure_and_seed_and_the_figure_is_drawn(found, tmp_path):
    text = tables_of_measures(found)
    rows = text[text.index("| Spearman") :].split("\n\n")[0].splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["full", "short", "gradient"]
    for part in (
        "Settings: short (samples_per_task 9); gradient.",
        "| gradient, seed 1 |",
        "| share of the ceiling |",
        "2026-01-01",
    ):
        assert part in text
    draw_measures(found, tmp_path / "measures.png")
    assert (tmp_path / "measures.png").read_bytes().startswith(b"\x89PNG")


def test_tasks_that_a_measure_left_out_are_compared_by_nobody():
    full = values_of(content(1.0), TASKS)
    short = {
        "tasks": ["A", "B"],
        "contributions": [[1, 0.5], [0.2, 1]],
        **dict.fromkeys(("contribution_out", "contribution_in", "difficulty"), [0.1, 0.2]),
        "weights": dict.fromkeys(TASKS, 1.0),
    }
    mine = values_of(short, TASKS)
    assert set(mine["contributions"]) == {"A -> B", "B -> A"} and set(mine["weights"]) == set(TASKS)
    found = agreement({0: mine, 1: mine}, {0: full, 1: full})
    assert np.isnan(found["difficulty"]["pearson"]), "two values say nothing"
    assert found["weights"]["difference"] == pytest.approx(0.4 / 3)


@given(st.lists(st.integers(-9, 9), min_size=3, max_size=12), st.randoms(use_true_random=False))
def test_correlations_are_those_of_numpy_and_of_ranks(values, random):
    a = np.array(values, dtype=float)
    b = np.array(random.sample(values, len(values)), dtype=float)
    if a.std() == 0:
        assert np.isnan(pearson(a, b)) and np.isnan(spearman(a, b))
        return
    assert pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert spearman(a, np.exp(a)) == pytest.approx(1.0)
    ranks = [sum(v < w for v in values) + (values.count(w) + 1) / 2 for w in values]
    others = [sum(v < w for v in b) + (list(b).count(w) + 1) / 2 for w in b]
    assert spearman(a, b) == pytest.approx(np.corrcoef(ranks, others)[0, 1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--measures", "tiny"], "--measures 'tiny': must be one of full, short"),
        (["--measures", "short: {samples: 3}"], "unknown key short.samples. Known: samples_per_task"),
        (["--measures", "short: ["], "is not YAML"),
        (["--measures", "short", "short: {samples_per_task: 9}"], "short is there already"),
        (["--measures", "short", "--rivals", "TLA"], "takes one of --kernels and no --rivals"),
        (["--measures", "short", "--seeds", "1"], "--seeds must be 2 or more different ones"),
        (["--measures", "proxy"], "proxy.environment must be a mapping with the smaller model"),
    ],
)
def test_measures_that_cannot_be_studied_are_refused(words, message, repository, tmp_path, monkeypatch):
    benchmark = repository / "scripts_visatb/benchmarks/demo.yaml"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["visatb study", "--benchmark", str(benchmark), *words])
    with pytest.raises(InputError, match=message):
        study.main()
    assert not (tmp_path / "runs").exists()


def test_measures_share_what_prepare_makes_and_their_run(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository)
    demo = load_benchmark("scripts_visatb/benchmarks/demo.yaml")
    files = [study.write_benchmark(demo, tmp_path, {"measure": kind}, f"-{kind}") for kind in ("full", "lora")]
    found = [load_benchmark(file) for file in files]
    assert [one.measure.kind for one in found] == ["full", "lora"]
    assert found[0].prepare == found[1].prepare and f"--benchmark {tmp_path / 'demo.yaml'} " in found[0].prepare
    assert {one.name for one in found} == {"demo"}
