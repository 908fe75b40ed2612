"""A study: where its runs go, the errors of its differences, what its tables say; and how it ends where a run fails."""

import json
import sys

import numpy as np
import pytest
import yaml

from scripts_visatb import study
from scripts_visatb.study_tables import standard_error, study_of, tables_of_study
from scripts_visatb.workflow.places import Run
from visatb.benchmark import load_benchmark
from visatb.errors import InputError

TASKS = ("Words", "Boxes")


@pytest.fixture
def benchmark(tmp_path):
    tasks = [
        {"name": name, "metric": "exact_match", "files": {s: f"{name}_{s}.json" for s in ("train", "val", "test")}}
        for name in TASKS
    ]
    content = {
        "name": "mix",
        "data_folder": "d",
        "image_folder": "d",
        "mini_rate": 0.1,
        "large_rate": 1.0,
        "tasks": tasks,
    }
    file = tmp_path / "mix.yaml"
    file.write_text(yaml.safe_dump(content))
    return load_benchmark(file)


def finished_run(benchmark, folder, seed, score, weights):
    """A run folder with the test scores `score(model, task) -> record scores` and the weights."""
    current = Run(benchmark, folder / "mix", seed)
    for task in TASKS:
        for model in (f"STL-{task}", "EW", "VisATB"):
            file = current.metric_file(model, "test", task).with_suffix(".per_record.jsonl")
            file.parent.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps({"position": n, "score": float(v)}) for n, v in enumerate(score(model, task)))
            file.write_text("\n".join(lines) + "\n")
    current.weights().write_text(json.dumps({"weights": dict(zip(TASKS, weights, strict=True))}))
    return current


@pytest.fixture
def found(benchmark, tmp_path):
    """Two seeds on two kernels: VisATB is right on 2 of 10 more `Words`, and one kernel's `Boxes` are all worse."""
    runs = {}
    for kernel in ("default", "native"):
        for seed in (0, 1):

            def score(model, task, kernel=kernel):
                right = {"EW": 5, "VisATB": 7 if task == "Words" else 5}.get(model, 5)
                return np.arange(10) < (right - 4 * (kernel == "native" and task == "Boxes"))

            weights = (1.5 - 0.01 * seed, 0.5 + 0.01 * seed)
            runs[kernel, seed] = finished_run(benchmark, tmp_path / f"{kernel}{seed}", seed, score, weights)
    return study_of(runs, "VisATB", ["EW"]) | {
        "command": "visatb study",
        "processor": "a processor",
        "date": "2026-01-01",
    }


def test_gain_is_eq_9_of_paired_scores(found):
    # 20 points of 0.5 on one of two tasks, in every seed and on both kernels.
    assert found["gains"]["EW"]["dI"] == pytest.approx(20.0)
    assert found["gains"]["EW"]["tasks"]["Words"]["mean"] == pytest.approx(0.2)
    assert found["gains"]["EW"]["tasks"]["Boxes"] == {"mean": 0.0, "error": 0.0}
    assert found["overall"]["EW"]["mean"] == pytest.approx(0.0)


def test_error_holds_the_part_of_the_records_that_seeds_share(found):
    # All seeds agree, so what is left is the choice of 10 records, of which 2 differ.
    expected = np.std([1, 1] + [0] * 8, ddof=1) / np.sqrt(10)
    assert found["gains"]["EW"]["tasks"]["Words"]["error"] == pytest.approx(expected)


def test_weights_are_compared_over_all_runs(found):
    weights = found["weights"]
    assert tuple(weights["highest"]) == ("Words", 4) and tuple(weights["lowest"]) == ("Boxes", 4)
    assert weights["between_tasks"] == pytest.approx(np.std([1.495, 0.505], ddof=1))
    assert weights["deviation"]["Words"] == pytest.approx(np.std([0, 0.01, 0, 0.01], ddof=1))


def test_tables_name_scores_that_a_kernel_changes(found):
    text = tables_of_study(found)
    assert "differ between kernels by more than 2 standard errors: " in text
    named = text.rpartition("standard errors: ")[2]
    assert "Boxes of EW" in named and "Words" not in named
    assert "dI% of VisATB less that of EW: +20.00 ± " in text and "`visatb study`" in text


def test_standard_error_of_independent_scores_is_that_of_their_mean():
    value_SR = np.random.default_rng(0).normal(size=(400, 300))
    # Both parts see the same scatter: the error is at most sqrt(2) too wide, never too narrow.
    assert 0.95 < standard_error(value_SR) / np.sqrt(1 / value_SR.size) < 1.5
    assert np.isnan(standard_error(value_SR[:1]))


def test_what_prepare_makes_is_made_for_each_kernel(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository)
    benchmark = load_benchmark("scripts_visatb/benchmarks/demo.yaml")
    file = study.write_benchmark(benchmark, tmp_path / "avx2", {"baselines": ["DWA"]})
    written = load_benchmark(file)
    assert written.data_folder == str(tmp_path / "avx2" / "demo" / "data")
    assert "runs/demo" not in file.read_text() and f"--benchmark {file}" in written.prepare
    assert list(written.baselines) == ["DWA"]
    before = file.stat().st_mtime_ns
    study.write_benchmark(benchmark, tmp_path / "avx2", {"baselines": ["DWA"]})
    assert file.stat().st_mtime_ns == before, "a new date would repeat jobs"


def test_a_kernel_reaches_the_run_and_a_failed_run_is_named(benchmark, tmp_path, monkeypatch):
    asked = []

    class Ended:
        def __init__(self, command, env, **_):
            asked.append((command[command.index("--seeds") + 1], env.get(study.VARIABLE)))
            self.returncode = int(asked[-1] == ("1", "avx2"))

        def poll(self):
            return self.returncode

    monkeypatch.setattr(study.subprocess, "Popen", Ended)
    monkeypatch.setenv(study.VARIABLE, "avx512")
    files = dict.fromkeys(("avx2", "native"), benchmark.path)
    wanted = study.repetitions(benchmark, tmp_path / "out", [0, 1], files)
    with pytest.raises(InputError, match=r"1 of 4 runs failed \(seed 1, avx2\)"):
        study.make_all(wanted, "main", 1)
    assert sorted(asked, key=str) == sorted([("0", "avx2"), ("0", None), ("1", "avx2"), ("1", None)], key=str)


@pytest.mark.parametrize(("flags", "said"), [(["--seeds", "1", "1"], "--seeds"), (["--cores", "0"], "--cores")])
def test_bad_flags_end_with_one_line(benchmark, flags, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["study", "--benchmark", str(benchmark.path), *flags])
    with pytest.raises(InputError, match=said):
        study.main()
