"""The run graph with stand-ins for training and inference: its order, what it repeats and what it keeps."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from toy_graph import BASE, COMPARISONS, calls, command, make_toy, plan, run_graph, write_benchmark
from waiting import PATIENCE, until

from scripts_visatb.workflow.places import Run
from scripts_visatb.workflow.report_data import omissions
from scripts_visatb.workflow.status import RUNNING, describe, read_status
from visatb.benchmark import load_benchmark
from visatb.records import omitted_file


@pytest.fixture
def toy(tmp_path) -> Path:
    make_toy(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory, repository) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    make_toy(folder)
    run_graph(folder, repository)
    return folder


@pytest.fixture
def finished(finished_once, tmp_path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(finished_once, tmp_path / "copy"))


def test_graph_trains_every_model_once_and_writes_the_report(finished):
    models = ["mini", "Vqa-plus-mini", "Box-plus-mini", "EW", "STL-Vqa", "STL-Box", "VisATB"]
    assert sorted(calls(finished)) == sorted(["{prepared}", *models])
    home = finished / "runs/toy/seed0"
    weights = json.loads((home / "weights.json").read_text())["weights"]
    log = (finished / "calls.log").read_text()
    assert f"VisATB seed=0 data=toy_train-120.json EW weights={weights['Vqa']!r} {weights['Box']!r} 1.0" in log
    assert "EW seed=0 data=toy_train-120.json EW weights=1.0 1.0 1.0" in log
    assert "mini seed=0 data=toy-mini_train-30.json" in log
    assert "Box-plus-mini seed=0 data=Box-plus-mini_train-60.json" in log
    assert "STL-Vqa seed=0 data=Vqa_train-40.json" in log
    rows = [line.split(",")[0] for line in (home / "scores.csv").read_text().splitlines()]
    assert rows == ["model", "mini", "Vqa", "Box"]
    page = (finished / "runs/toy/report.html").read_text()
    assert 'id="curves"' in page
    spread = json.loads((home / "weights.json").read_text())["spread"]
    assert spread["total"] == 1000 and "not distinguishable from 1" in page
    assert "lambda" in (finished / "runs/toy/tables/weights.md").read_text()
    record = json.loads((home / "done/train_mini.json").read_text())
    assert record["peak_mib"] > 1
    assert record["name"] == "train mini (seed 0)"


def test_all_forms_baselines_and_ablations_share_what_they_can(finished, repository):
    before = len(calls(finished))
    write_benchmark(finished, **COMPARISONS)
    shown = run_graph(finished, repository, "all").stdout
    made = calls(finished)[before:]
    rivals, forms = ["TLA", "sampling-weights"], ["T-2", "precise", "simpler"]
    assert sorted(made) == sorted([*rivals, *forms, "mini-STL-Vqa", "mini-STL-Box"])
    assert "answers of mini on val" not in shown
    log = (finished / "calls.log").read_text()
    assert re.search(r"^TLA seed=0 data=toy_train-120.json TLA weights= $", log, re.MULTILINE)
    assert re.search(r"^sampling-weights seed=0 .* EW weights=[\d. ]+ weights$", log, re.MULTILINE)
    assert "mini-STL-Box seed=0 data=Box-mini_train-10.json" in log
    home = finished / "runs/toy/seed0"
    rows = {name: (home / f"{name}.csv").read_text().split() for name in ("scores", "scores_simpler", "single_scores")}
    assert [row.split(",")[0] for row in rows["scores_simpler"]] == ["model", "base", "Vqa", "Box"]
    assert [row.split(",")[0] for row in rows["single_scores"]] == ["model", "mini", "full"]
    weighed = {name: json.loads((home / f"weights_{name}.json").read_text()) for name in ("T-2", "precise", "simpler")}
    assert {name: found["form"] for name, found in weighed.items()} == {
        "T-2": "standard",
        "precise": "precise",
        "simpler": "simpler",
    }
    assert weighed["T-2"]["temperature"] == 2.0
    data = json.loads((finished / "runs/toy/report.json").read_text())
    assert list(data["methods"]["models"]) == ["EW", "TLA", "sampling-weights", "VisATB"]
    assert list(data["ablations"]["models"]) == ["EW", "VisATB", "T-2", "precise", "simpler"]
    assert [share for share, _ in data["amounts"]["Vqa"]] == [0.0, 0.25, 1.0]
    page = (finished / "runs/toy/report.html").read_text()
    assert all(f'id="{section}"' in page for section in ("methods", "ablations", "amounts"))
    table = (finished / "runs/toy/tables/ablations.tex").read_text()
    assert "precise &" in table and r"$\Delta I\%$" in table
    run_graph(finished, repository)  # another target: nothing is trained, and what is there stays in the report
    assert calls(finished)[before:] == made
    assert "TLA" in json.loads((finished / "runs/toy/report.json").read_text())["methods"]["models"]


def test_another_measure_trains_only_what_it_makes_otherwise(finished, repository):
    before = len(calls(finished))
    home, weights = finished / "runs/toy/seed0", {}
    made = {
        "short": ["short-Vqa-plus-mini", "short-Box-plus-mini", "VisATB"],
        "lora": ["lora-mini", "lora-Vqa-plus-mini", "lora-Box-plus-mini", "VisATB"],
    }
    settings = {"short": {"samples_per_task": 20}, "lora": {"script": "train.sh", "r": 4}}
    for kind, expected in made.items():
        write_benchmark(finished, measure={kind: settings[kind]})
        run_graph(finished, repository)
        assert sorted(calls(finished)[before:]) == sorted(expected)
        before = len(calls(finished))
        content = json.loads((home / f"weights_{kind}.json").read_text())
        assert content["measure"] == kind and content["spread"]["total"] == 1000
        weights[kind] = content["weights"]
        assert f"Measured by: {kind}" in (finished / "runs/toy/report.html").read_text()
    assert "short-Box-plus-mini seed=0 data=short-Box-plus-mini_train-40.json" in (finished / "calls.log").read_text()
    full = json.loads((home / "weights.json").read_text())
    assert full["measure"] == "full" and full["weights"] != weights["short"] != weights["lora"]
    write_benchmark(finished, measure="full")
    run_graph(finished, repository)
    assert calls(finished)[before:] == ["VisATB"], "preparation models of the measure full are all there"


@pytest.mark.parametrize("form", ["precise", "simpler"])
def test_several_seeds_of_every_form_are_weighed_together(toy, repository, form):
    write_benchmark(toy, form=form)
    run_graph(toy, repository, "weights", "--seeds", "0", "1")
    together = json.loads((toy / "runs/toy/weights.json").read_text())
    alone = [json.loads((toy / f"runs/toy/seed{seed}/weights.json").read_text()) for seed in (0, 1)]
    assert together["form"] == form and together["spread"]["total"] == 2
    # The stand-ins answer alike for every seed.
    assert all(one["weights"] == pytest.approx(together["weights"]) for one in alone)


def test_contributions_from_gradients_are_weighed_with_the_scores_of_base_and_mini(finished, repository):
    before = len(calls(finished))
    write_benchmark(finished, measure="gradient")
    home = finished / "runs/toy/seed0"
    # The stand-in model has no gradients: as if they had been compared.
    content = {"units": ["Vqa", "Box"], "tasks": ["Vqa", "Box"], "unit_of_task": [0, 1]}
    (home / "gradients.json").write_text(json.dumps(content | {"contributions": [[1, 0.5], [-0.25, 1]]}))
    record = {"name": "gradients", "started": time.time(), "seconds": 1.0, "peak_mib": 1.0}
    (home / "done/gradients.json").write_text(json.dumps(record))
    shown = run_graph(finished, repository, "weights").stdout
    assert calls(finished)[before:] == []
    assert "Measured by: gradient, contributions approximated from gradients" in shown
    run_graph(finished, repository)
    assert calls(finished)[before:] == ["VisATB"]
    assert "Measured by: gradient" in (finished / "runs/toy/report.html").read_text()
    weighed = json.loads((home / "weights_gradient.json").read_text())
    rows = [line.split(",") for line in (home / "scores_gradient.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["model", "base", "mini"]
    lost = [1 - float(base) / float(mini) for base, mini in zip(rows[1][1:], rows[2][1:], strict=True)]
    assert weighed["difficulty"] == pytest.approx(lost) and weighed["contribution_out"] == [0.5, -0.25]
    assert (weighed["form"], weighed["measure"]) == ("gradient", "gradient")
    assert "an approximation" in weighed["notes"][0]


@pytest.fixture(scope="module")
def simpler_once(tmp_path_factory, repository) -> Path:
    """A finished run of the simpler form, with a further metric, whose models were deleted."""
    folder = tmp_path_factory.mktemp("simpler")
    make_toy(folder)
    tasks = yaml.safe_load((folder / "toy.yaml").read_text())["tasks"]
    tasks[0]["also"] = ["gleu"]
    training = {"script": "train.sh", "environment": BASE, "keep_models": False}
    write_benchmark(folder, form="simpler", tasks=tasks, training=training)
    run_graph(folder, repository)
    return folder


def test_simpler_form_as_the_benchmarks_own_trains_no_mini_mix(simpler_once):
    singles = ["STL-Vqa", "STL-Box", "mini-STL-Vqa", "mini-STL-Box"]
    assert sorted(calls(simpler_once)) == sorted(["{prepared}", *singles, "EW", "VisATB"])
    home = simpler_once / "runs/toy/seed0"
    assert json.loads((home / "weights.json").read_text())["form"] == "simpler"
    assert not (home / "scores.csv").exists()
    assert "not tuned" in (simpler_once / "runs/toy/report.html").read_text()


def test_models_that_are_scored_are_deleted_on_request(simpler_once, repository):
    kept = {path.parent.name for path in simpler_once.glob("runs/toy/seed0/models/*/config.json")}
    assert kept == {"EW", "VisATB"}
    again = plan(simpler_once, "toy.yaml")
    assert "Nothing to be done" in again.stdout + again.stderr


def test_further_metrics_are_scored_and_enter_the_overall_metrics(simpler_once, repository):
    metrics = simpler_once / "runs/toy/seed0/metrics"
    assert (metrics / "EW_test/Vqa:gleu.json").is_file() and not list(metrics.glob("*_val/*gleu*"))
    data = json.loads((simpler_once / "runs/toy/report.json").read_text())
    assert list(data["methods"]["baseline"]) == ["Vqa", "Vqa:gleu", "Box"]
    words = ["--baseline", f"{metrics}/STL-Vqa_test", f"{metrics}/STL-Box_test", "--results", f"{metrics}/EW_test"]
    done = subprocess.run(
        [sys.executable, str(repository / "eval/overall.py"), *words, "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    reported = json.loads(done.stdout)["models"]["EW_test"]
    assert reported["dI_percent"] == pytest.approx(data["overall"]["EW"]["dI"])


def test_second_call_of_a_finished_run_does_nothing(finished, repository):
    before = calls(finished)
    shown = run_graph(finished, repository)
    assert "start" not in shown.stdout
    assert "VisATB %" in shown.stdout, "the table of results is missing"
    assert calls(finished) == before


def test_changed_temperature_repeats_only_what_depends_on_it(finished, repository):
    before = len(calls(finished))
    write_benchmark(finished, temperature=0.25)
    shown = run_graph(finished, repository).stdout
    assert "1/5  done   weights (seed 0)" in shown
    assert "5/5  done   report" in shown
    assert calls(finished)[before:] == ["VisATB"]
    models = finished / "runs/toy/seed0/models"
    assert (models / "superseded/VisATB.1/config.json").exists()
    assert json.loads((finished / "runs/toy/seed0/weights.json").read_text())["temperature"] == 0.25
    assert "Temperature 0.25" in (finished / "runs/toy/report.html").read_text()


def test_records_omitted_by_inference_are_reported(finished, repository):
    current = Run(load_benchmark(finished / "toy.yaml"), finished / "runs/toy", 0)
    answers = current.answer_file("EW", "test", current.benchmark.task("Vqa"))
    answers.write_text(json.dumps(json.loads(answers.read_text())[:-1]))
    omitted_file(answers).write_text('{"position": 39, "id": "Vqa-test-39", "image": "one.png", "reason": "broken"}\n')
    words = ["--benchmark", "toy.yaml", "--run", "runs/toy", "--seed", "0", "--model", "EW", "--split", "test"]
    done = subprocess.run(
        [sys.executable, "-m", "scripts_visatb.workflow.score", *words],
        cwd=finished,
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "note: Vqa: 1 records were left out by inference" in done.stderr
    assert omissions(current) == ["Vqa: 1 test records were left out by inference and are not scored"]


def test_settings_that_shape_no_result_repeat_nothing(finished, repository):
    before = calls(finished)
    training = {"script": "train.sh", "environment": {"LEARNING_RATE": 1e-3, "LOGGING_STEPS": 7} | BASE, "threads": 2}
    write_benchmark(finished, training=training)
    run_graph(finished, repository)
    assert calls(finished) == before


def test_a_killed_run_leaves_no_process_and_resumes(toy, repository):
    (toy / "slow").touch()
    environment = os.environ | {"PYTHONPATH": str(repository)}
    models = toy / "runs/toy/seed0/models"
    with open(toy / "out.txt", "w") as out:
        # As in quickstart.sh: the shell becomes the command.
        script = f"exec {shlex.join(command('weights'))}"
        running = subprocess.Popen(["bash", "-c", script], cwd=toy, env=environment, stdout=out, stderr=out)
        try:
            until(lambda: list(models.glob("*/progress")), running)
            (progress, *_) = models.glob("*/progress")
            descendants = psutil.Process(running.pid).children(recursive=True)
            assert descendants
            running_steps = [step for step in read_status(toy / "runs/toy") if step.state == RUNNING]
            assert running_steps and all(step.name.startswith("train ") for step in running_steps)
        finally:
            running.send_signal(signal.SIGKILL)
            running.wait()
    _, alive = psutil.wait_procs(descendants, timeout=PATIENCE)
    assert not alive
    assert not [step for step in read_status(toy / "runs/toy") if step.state == RUNNING]
    (toy / "slow").unlink()
    run_graph(toy, repository, "weights")
    assert (toy / "runs/toy/seed0/weights.json").exists()
    assert progress.read_text() == "step\nstep\n", "the training folder was emptied before the training went on"
    assert calls(toy).count("{prepared}") == 1


def test_failed_training_shows_the_end_of_its_log(toy, repository):
    (toy / "broken").touch()
    done = run_graph(toy, repository, check=False)
    assert done.returncode != 0
    assert "the card is on fire" in done.stderr
    assert "failed with exit code 3" in done.stderr
    status = describe(toy / "runs/toy", read_status(toy / "runs/toy"))
    assert "with exit code 3, log " in status and "  | the card is on fire" in status and "not running" in status
    assert not list(toy.glob("runs/toy/seed0/done/train_*.json"))


def test_several_seeds_repeat_the_preparation_and_only_that(finished, repository):
    before = len(calls(finished))
    run_graph(finished, repository, "--seeds", "0", "1")
    assert sorted(calls(finished)[before:]) == ["Box-plus-mini", "Vqa-plus-mini", "mini"]
    order = json.loads((finished / "runs/toy/report.json").read_text())["seed_order"]
    assert [row["seed"] for row in order["rows"]] == [0, 1]
    together = json.loads((finished / "runs/toy/weights.json").read_text())
    assert order["mean"]["Vqa"] == [together["weights"]["Vqa"], 0.0], "the stand-ins answer alike for every seed"
    minis = [finished / f"runs/toy/seed{seed}/subsets/toy-mini_train-30.json" for seed in (0, 1)]
    assert minis[0].read_bytes() != minis[1].read_bytes()
    before = len(calls(finished))
    write_benchmark(finished, weights_from="mean")
    run_graph(finished, repository, "--seeds", "0", "1")
    # The stand-ins answer alike for every seed, and so the same weights ask for no training anew.
    assert calls(finished)[before:] == []
    (finished / "runs/toy/seed0/models/VisATB.settings.json").unlink()  # as if they had been others
    report = json.loads((finished / "runs/toy/report.json").read_text())
    assert any("the score matrix is of seed 0" in sentence for sentence in report["warnings"])
    assert report["weighting"]["spread"]["rule"] == together["spread"]["rule"]
    write_benchmark(finished, weights_from="seed")
    run_graph(finished, repository, "--seeds", "0", "1")
    assert calls(finished)[before:] == ["VisATB"], "the seed's own weights are older than the model"


def test_second_process_on_the_same_run_is_refused(finished, repository):
    import fcntl

    write_benchmark(finished, temperature=0.25)
    with open(finished / "runs/toy/.lock", "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        done = run_graph(finished, repository, check=False)
    assert done.returncode != 0
    assert "another process is making this run" in done.stdout + done.stderr
    assert calls(finished).count("VisATB") == 1
