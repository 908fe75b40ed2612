"""The plans of the run graph: what each target would make, and what is refused before anything is."""

import re
from pathlib import Path

import pytest
from toy_graph import COMPARISONS, make_toy, plan, run_graph, write_benchmark

from llava.eval.suite import build_parser
from scripts_visatb.workflow.infer import asked_model
from scripts_visatb.workflow.models import models_of
from scripts_visatb.workflow.places import Run
from scripts_visatb.workflow.zero_shot import suite_command
from visatb.benchmark import load_benchmark


@pytest.fixture
def toy(tmp_path) -> Path:
    make_toy(tmp_path)
    return tmp_path


def test_snakemake_shows_the_plan_and_makes_nothing(toy):
    shown = plan(toy, "toy.yaml").stdout
    for line in ("train mini (seed 0)", "train Box-plus-mini (seed 0)", "train STL-Vqa (seed 0)", "write the report"):
        assert line in shown
    assert "STL-Chat" not in shown
    assert not (toy / "runs").exists()
    assert not (toy / "calls.log").exists()


@pytest.mark.parametrize(
    ("name", "lines", "models"),
    [
        ("academic", ["train ChartQA-plus-mini", "score VisATB on test", "train STL-RefCOCO-bbox"], 8 + 7 + 2),
        ("chat", ["let base answer the val questions", "train mini-STL-detail", "score STL-detail on val"], 6 + 2),
        ("m3it", ["train generation-plus-mini", "train STL-Multi30k", "score mini on val"], 6 + 17 + 2),
    ],
)
def test_plans_of_the_papers_benchmarks_report_what_is_missing(name, lines, models, repository, tmp_path):
    shown = plan(tmp_path, repository / f"scripts_visatb/benchmarks/{name}.yaml")
    assert shown.returncode == 0, shown.stderr
    for line in lines:
        assert line in shown.stdout
    assert len(set(re.findall(r": train (\S+) \(seed", shown.stdout))) == models
    reported = shown.stdout + shown.stderr
    assert f"annotation files are missing: playground/data/{name}/" in reported
    assert "the projector of stage 1 is missing" in reported
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("target", "trained"),
    [
        ("weights", {"mini", "Vqa-plus-mini", "Box-plus-mini"}),
        ("main", {"mini", "Vqa-plus-mini", "Box-plus-mini", "EW", "STL-Vqa", "STL-Box", "VisATB"}),
        ("baselines", {"TLA", "sampling-weights"}),
        ("ablations", {"T-2", "precise", "simpler", "mini-STL-Vqa", "mini-STL-Box"}),
        ("all", {"TLA", "sampling-weights", "T-2", "precise", "simpler", "mini-STL-Vqa", "mini-STL-Box"}),
    ],
)
def test_targets_name_what_is_trained(toy, target, trained):
    write_benchmark(toy, **COMPARISONS)
    found = set(re.findall(r": train (\S+) \(seed", plan(toy, "toy.yaml", target).stdout))
    main = {"mini", "Vqa-plus-mini", "Box-plus-mini", "EW", "STL-Vqa", "STL-Box", "VisATB"}
    assert found == (trained if target == "weights" else trained | main)


def test_weights_from_the_mean_wait_for_every_seed(toy, repository):
    write_benchmark(toy, weights_from="mean", baselines=["sampling:weights"])
    jobs = run_graph(toy, repository, "baselines", "-n", "--seeds", "0", "1").stdout.splitlines()
    together = [n for n, job in enumerate(jobs) if job.endswith("of all seeds together")]
    assert len(together) == 2 and max(together) < min(
        jobs.index(f"train {m} (seed 0)") for m in ("VisATB", "sampling-weights")
    )
    refused = run_graph(toy, repository, "-n", check=False)
    assert (
        refused.returncode != 0
        and (refused.stdout + refused.stderr).count("\n") == 1
        and "needs several seeds" in refused.stdout + refused.stderr
    )
    write_benchmark(toy, form="precise")
    jobs = run_graph(toy, repository, "-n", "--seeds", "0", "1").stdout.splitlines()
    assert {"train STL-Vqa (seed 1)", "train mini-STL-Box (seed 1)"} <= set(jobs), "single-task scores of every seed"
    assert "train VisATB (seed 0)" in jobs and "train VisATB (seed 1)" not in jobs
    assert not (toy / "runs").exists()


@pytest.mark.parametrize(
    ("measure", "trained"),
    [
        ("gradient", {"mini"}),
        (
            {"proxy": {"environment": {"BASE_MODEL_PATH": "s", "PRETRAIN_MM_MLP_ADAPTER": "p"}}},
            {"proxy-mini", "proxy-Vqa-plus-mini", "proxy-Box-plus-mini"},
        ),
    ],
)
def test_gradient_and_proxy_are_planned_with_the_models_they_need(toy, measure, trained):
    write_benchmark(toy, measure=measure)
    shown = plan(toy, "toy.yaml", "weights").stdout
    assert set(re.findall(r": train (\S+) \(seed", shown)) == trained
    assert ("compare the gradients of the tasks" in shown) == (measure == "gradient")


def test_settings_on_the_command_line_that_would_be_ignored_are_refused(toy, repository):
    done = run_graph(toy, repository, "-n", "--config", "temperature=0.1", check=False)
    assert done.returncode != 0
    (reported,) = (done.stdout + done.stderr).splitlines()
    assert reported.startswith("--config temperature=0.1: must be set in")


def test_a_number_that_yaml_reads_as_text_is_no_override(toy, repository):
    text = (toy / "toy.yaml").read_text().replace("LEARNING_RATE: 0.001", "LEARNING_RATE: 1e-3")
    (toy / "toy.yaml").write_text(text)
    assert "LEARNING_RATE: 1e-3" in text and run_graph(toy, repository, "-n").stdout.startswith("prepare data")


def test_the_plan_is_the_jobs_and_their_number_alone(toy, repository):
    done = run_graph(toy, repository, "-n", "weights")
    *jobs, total = done.stdout.splitlines()
    assert jobs[:2] == ["prepare data and base model", "draw the sub-datasets (seed 0)"]
    assert "train mini (seed 0)" in jobs and jobs[-1].startswith("compute contributions")
    assert total == f"{len(jobs)} jobs: 1 prepare, 1 subsets, 3 train, 3 infer, 3 score, 1 matrix, 1 weigh"
    assert not done.stderr and len(jobs) == 13
    assert not (toy / "runs").exists()


def test_without_prepare_the_plan_does_not_say_that_data_are_made(toy, repository):
    write_benchmark(toy, prepare=None)
    jobs = run_graph(toy, repository, "-n").stdout.splitlines()
    assert jobs[0] == "take data and base model as they are" and not any("prepare data" in job for job in jobs)


def test_a_mistyped_target_is_one_line_and_exit_code_2(toy, repository):
    done = run_graph(toy, repository, "-n", "wieghts", check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "error: no target 'wieghts'. Use one of weights, main" in done.stderr


def test_broken_benchmark_is_one_line_and_exit_code_2(toy, repository):
    write_benchmark(toy, temperature=-1)
    done = run_graph(toy, repository, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "temperature" in done.stderr


def test_the_zero_shot_target_runs_the_final_models_with_ew_first(toy):
    write_benchmark(toy, zero_shot={"data": "eval", "benchmarks": "pope,mme"})
    shown = plan(toy, "toy.yaml", "zero_shot").stdout
    assert re.findall(r"take (\S+) through the zero-shot suite", shown) == ["EW", "VisATB"]
    assert {"mini", "EW", "VisATB"} <= set(re.findall(r": train (\S+) \(seed", shown))
    run = Run(load_benchmark(toy / "toy.yaml"), toy / "runs/toy", 0)
    metrics = toy / "runs/toy/seed0/zero_shot_metrics/EW"
    metrics.mkdir(parents=True)
    for model, task, expected in (("VisATB", "GQA", None), ("VisATB", "POPE", str(metrics)), ("EW", "POPE", None)):
        (metrics / f"{task}.json").touch()
        with asked_model(run, models_of(run.benchmark)[model], "zero_shot") as asked:
            words = suite_command(run, model, asked)
        assert words[1:3] == ["-m", "llava.eval.suite"]
        flags = build_parser().parse_args(words[3:])
        assert (flags.model_name, flags.data, flags.benchmarks, flags.baseline) == (model, "eval", "pope,mme", expected)
        assert flags.overwrite and flags.model_path == str(toy / "runs/toy/seed0/models" / model)
