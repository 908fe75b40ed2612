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
from PIL import Image

from llava.eval.suite import build_parser
from scripts_visatb.workflow.graph import Run
from scripts_visatb.workflow.report_data import omissions
from scripts_visatb.workflow.zero_shot import suite_command
from visatb.benchmark import load_benchmark
from visatb.records import omitted_file

TRAIN = """#!/usr/bin/env bash
set -euo pipefail
echo "$(basename "$OUTPUT_DIR") seed=$SEED data=$(basename "$DATA_PATH") $WEIGHT_METHOD weights=$VISATB_WEIGHTS" \\
    >> calls.log
mkdir -p "$OUTPUT_DIR"
echo step >> "$OUTPUT_DIR/progress"
if [ -e slow ]; then sleep 120; fi
if [ -e broken ]; then echo "the card is on fire" >&2; exit 3; fi
echo '{"step": 1, "epoch": 1.0, "loss": 2.0, "tasks": {"Vqa": {"loss": 2.0, "weight": 1.0, "tokens": 9}}}' \\
    > "$OUTPUT_DIR/train_log.jsonl"
echo '{}' > "$OUTPUT_DIR/config.json"
"""

# Knows the truth of a share of the records: much of the task its model was trained on, less of the others.
INFER = """
import argparse, hashlib, json
from pathlib import Path
p = argparse.ArgumentParser()
for flag in ("model-path", "model-base", "model-name", "image-folder", "answers-folder", "max_new_tokens"):
    p.add_argument("--" + flag)
p.add_argument("--overwrite", action="store_true")
p.add_argument("--question-file", nargs="+")
a = p.parse_args()
folder = Path(a.answers_folder)
folder.mkdir(parents=True, exist_ok=True)
for question_file in a.question_file:
    records = json.loads(Path(question_file).read_text())
    for record in records:
        name, task = a.model_name, record["task"]
        known = {"mini": 0.4, "base": 0.1}.get(name.split("-")[0], 0.9 if task in name else 0.6)
        draw = int(hashlib.sha256(f"{name}/{record['id']}".encode()).hexdigest(), 16) % 1000 / 1000
        answer = record["conversations"][1]
        answer["generative_value"] = answer["value"] if draw < known else "no idea"
        record["generator"] = name
    stem = Path(question_file).stem.replace("_", "-")
    (folder / f"{stem}_{a.model_name.replace('_', '-')}.json").write_text(json.dumps(records))
"""


def make_toy(folder: Path) -> None:
    """A benchmark of two measured tasks and a text-only one, with stand-in scripts, in `folder`."""
    (folder / "data").mkdir()
    (folder / "images").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "images" / "one.png")
    tasks = []
    for task, metric in (("Vqa", "exact_match"), ("Box", "iou"), ("Chat", None)):
        files = {}
        for split in ("train", "val", "test") if metric else ("train",):
            records = [_record(task, split, n, metric) for n in range(40)]
            files[split] = f"{task}_{split}-40.json"
            (folder / "data" / files[split]).write_text(json.dumps(records))
        tasks.append({"name": task, "files": files} | ({"metric": metric} if metric else {"weight": 1.0}))
    write_benchmark(folder, tasks=tasks)
    (folder / "train.sh").write_text(TRAIN)
    (folder / "infer.py").write_text(INFER)


BASE = {"BASE_MODEL_PATH": "bases/llama", "PRETRAIN_MM_MLP_ADAPTER": "stage1/mm_projector.bin"}
COMPARISONS = {
    "baselines": ["TLA"],
    "ablations": [
        {"name": "T-2", "temperature": 2.0},
        {"name": "precise", "form": "precise"},
        {"name": "simpler", "form": "simpler"},
    ],
}


def _record(task: str, split: str, n: int, metric: str | None) -> dict:
    answer = f"[0.1, 0.1, 0.{2 + n % 8}, 0.9]" if metric == "iou" else ("red", "blue", "green")[n % 3]
    image = {"image": "one.png"} if metric else {}
    question = f"{'<image>' if metric else ''}{task} {split} {n}?"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": f"{task}-{split}-{n}", "task": task, "conversations": turns} | image


def write_benchmark(folder: Path, **changes) -> None:
    """Write toy.yaml, or change keys of the one that is there."""
    file = folder / "toy.yaml"
    content = {
        "name": "toy",
        "data_folder": "data",
        "image_folder": "images",
        "mini_rate": 0.25,
        "temperature": 0.5,
        "prepare": "echo '{prepared}' >> calls.log",
        "training": {"script": "train.sh", "environment": {"LEARNING_RATE": 1e-3, "LOGGING_STEPS": 1} | BASE},
        "inference": {"script": "infer.py"},
    }
    if file.exists():
        content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(content | changes, sort_keys=False))


def command(*more: str) -> list[str]:
    return [sys.executable, "-m", "scripts_visatb.workflow.run", "--benchmark", "toy.yaml", "--cores", "2", *more]


def run_graph(folder: Path, repository: Path, *more: str, check: bool = True) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(command(*more), cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def plan(folder: Path, benchmark: Path | str, *targets: str) -> subprocess.CompletedProcess:
    """What plain `snakemake -n` says, without our own start command."""
    repository = Path(__file__).resolve().parents[2]
    snakemake = Path(sys.executable).with_name("snakemake")
    snakefile = repository / "scripts_visatb/workflow/Snakefile"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = ["-s", str(snakefile), "--configfile", str(benchmark), "--cores", "2", "-n", *targets]
    return subprocess.run(
        [str(snakemake), *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def calls(folder: Path) -> list[str]:
    """The first word of each call of a stand-in so far."""
    log = folder / "calls.log"
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


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
def test_plans_of_the_papers_benchmarks_tell_what_is_missing(name, lines, models, repository, tmp_path):
    shown = plan(tmp_path, repository / f"scripts_visatb/benchmarks/{name}.yaml")
    assert shown.returncode == 0, shown.stderr
    for line in lines:
        assert line in shown.stdout
    assert len(set(re.findall(r": train (\S+) \(seed", shown.stdout))) == models
    told = shown.stdout + shown.stderr
    assert f"annotation files are missing: playground/data/{name}/" in told
    assert "the projector of stage 1 is missing" in told
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("target", "trained"),
    [
        ("weights", {"mini", "Vqa-plus-mini", "Box-plus-mini"}),
        ("main", {"mini", "Vqa-plus-mini", "Box-plus-mini", "EW", "STL-Vqa", "STL-Box", "VisATB"}),
        ("baselines", {"TLA"}),
        ("ablations", {"T-2", "precise", "simpler", "mini-STL-Vqa", "mini-STL-Box"}),
        ("all", {"TLA", "T-2", "precise", "simpler", "mini-STL-Vqa", "mini-STL-Box"}),
    ],
)
def test_targets_name_what_is_trained(toy, target, trained):
    write_benchmark(toy, **COMPARISONS)
    found = set(re.findall(r": train (\S+) \(seed", plan(toy, "toy.yaml", target).stdout))
    main = {"mini", "Vqa-plus-mini", "Box-plus-mini", "EW", "STL-Vqa", "STL-Box", "VisATB"}
    assert found == (trained if target == "weights" else trained | main)


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
    assert spread["total"] == 1000 and "not told apart from 1" in page
    assert "lambda" in (finished / "runs/toy/tables/weights.md").read_text()
    record = json.loads((home / "done/train_mini.json").read_text())
    assert record["peak_mib"] > 1
    assert record["name"] == "train mini (seed 0)"


def test_all_forms_baselines_and_ablations_share_what_they_can(finished, repository):
    before = len(calls(finished))
    write_benchmark(finished, **COMPARISONS)
    shown = run_graph(finished, repository, "all").stdout
    made = calls(finished)[before:]
    assert sorted(made) == sorted(["TLA", "T-2", "precise", "simpler", "mini-STL-Vqa", "mini-STL-Box"])
    assert "answers of mini on val" not in shown
    log = (finished / "calls.log").read_text()
    assert re.search(r"^TLA seed=0 data=toy_train-120.json TLA weights=$", log, re.MULTILINE)
    assert "mini-STL-Box seed=0 data=Box-mini_train-10.json" in log
    home = finished / "runs/toy/seed0"
    rows = {name: (home / f"{name}.csv").read_text().split() for name in ("scores", "scores_simpler", "single_scores")}
    assert [row.split(",")[0] for row in rows["scores_simpler"]] == ["model", "base", "Vqa", "Box"]
    assert [row.split(",")[0] for row in rows["single_scores"]] == ["model", "mini", "full"]
    forms = {name: json.loads((home / f"weights_{name}.json").read_text()) for name in ("T-2", "precise", "simpler")}
    assert {name: found["form"] for name, found in forms.items()} == {
        "T-2": "standard",
        "precise": "precise",
        "simpler": "simpler",
    }
    assert forms["T-2"]["temperature"] == 2.0
    data = json.loads((finished / "runs/toy/report.json").read_text())
    assert list(data["methods"]["models"]) == ["EW", "TLA", "VisATB"]
    assert list(data["ablations"]["models"]) == ["EW", "VisATB", "T-2", "precise", "simpler"]
    assert [share for share, _ in data["amounts"]["Vqa"]] == [0.0, 0.25, 1.0]
    page = (finished / "runs/toy/report.html").read_text()
    assert all(f'id="{section}"' in page for section in ("methods", "ablations", "amounts"))
    table = (finished / "runs/toy/tables/ablations.tex").read_text()
    assert "precise &" in table and r"$\Delta I\%$" in table
    run_graph(finished, repository)  # another target: nothing is trained, and what is there stays in the report
    assert calls(finished)[before:] == made
    assert "TLA" in json.loads((finished / "runs/toy/report.json").read_text())["methods"]["models"]


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


def test_further_metrics_are_scored_on_the_test_set_and_take_part_in_the_overall_metrics(simpler_once, repository):
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
    told = json.loads(done.stdout)["models"]["EW_test"]
    assert told["dI_percent"] == pytest.approx(data["overall"]["EW"]["dI"])


def test_second_call_of_a_finished_run_does_nothing(finished, repository):
    before = calls(finished)
    start = time.monotonic()
    shown = run_graph(finished, repository)
    assert time.monotonic() - start < 20
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


def test_changed_annotation_file_repeats_the_trainings_that_read_it(toy, repository):
    write_benchmark(toy, prepare=None)
    run_graph(toy, repository)
    before = len(calls(toy))
    file = toy / "data/Box_train-40.json"
    file.write_text(file.read_text().replace("Box train 7?", "Box train seven?"))
    run_graph(toy, repository)
    assert "STL-Box" in calls(toy)[before:]
    assert "STL-Vqa" not in calls(toy)[before:]


def test_records_left_out_by_the_inference_are_told(finished, repository):
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
    assert "note: Vqa: 1 records were left out by the inference" in done.stderr
    assert omissions(current) == ["Vqa: 1 test records were left out by the inference and are not scored"]


def test_settings_that_shape_no_result_repeat_nothing(finished, repository):
    before = calls(finished)
    training = {"script": "train.sh", "environment": {"LEARNING_RATE": 1e-3, "LOGGING_STEPS": 7} | BASE, "threads": 2}
    write_benchmark(finished, training=training)
    run_graph(finished, repository)
    assert calls(finished) == before


def test_killed_run_leaves_no_process_and_goes_on(toy, repository):
    (toy / "slow").touch()
    environment = os.environ | {"PYTHONPATH": str(repository)}
    models = toy / "runs/toy/seed0/models"
    with open(toy / "out.txt", "w") as out:
        # As in quickstart.sh: the shell becomes the command.
        script = f"exec {shlex.join(command())}"
        running = subprocess.Popen(["bash", "-c", script], cwd=toy, env=environment, stdout=out, stderr=out)
        try:
            _wait_for(lambda: list(models.glob("*/progress")), 60)
            (progress, *_) = models.glob("*/progress")
            descendants = psutil.Process(running.pid).children(recursive=True)
            assert descendants
        finally:
            running.send_signal(signal.SIGKILL)
            running.wait()
    _, alive = psutil.wait_procs(descendants, timeout=30)
    assert not alive
    (toy / "slow").unlink()
    run_graph(toy, repository)
    assert (toy / "runs/toy/report.html").exists()
    assert progress.read_text() == "step\nstep\n", "the training folder was emptied before the training went on"
    assert calls(toy).count("{prepared}") == 1


def test_failed_training_shows_the_end_of_its_log(toy, repository):
    (toy / "broken").touch()
    done = run_graph(toy, repository, check=False)
    assert done.returncode != 0
    assert "the card is on fire" in done.stderr
    assert "failed with exit code 3" in done.stderr
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


def test_settings_on_the_command_line_that_would_be_ignored_are_refused(toy, repository):
    done = run_graph(toy, repository, "-n", "--config", "temperature=0.1", check=False)
    assert done.returncode != 0
    assert "must be set in" in done.stdout + done.stderr


def test_broken_benchmark_is_one_line_and_exit_code_2(toy, repository):
    write_benchmark(toy, temperature=-1)
    done = run_graph(toy, repository, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "temperature" in done.stderr


def test_second_process_on_the_same_run_is_refused(finished, repository):
    import fcntl

    write_benchmark(finished, temperature=0.25)
    with open(finished / "runs/toy/.lock", "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        done = run_graph(finished, repository, check=False)
    assert done.returncode != 0
    assert "another process is making this run" in done.stdout + done.stderr
    assert calls(finished).count("VisATB") == 1


def _wait_for(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def test_the_zero_shot_target_takes_the_final_models_through_the_suite_equal_weights_first(toy):
    write_benchmark(toy, zero_shot={"data": "eval", "benchmarks": "pope,mme"})
    shown = plan(toy, "toy.yaml", "zero_shot").stdout
    assert re.findall(r"take (\S+) through the zero-shot suite", shown) == ["EW", "VisATB"]
    assert {"mini", "EW", "VisATB"} <= set(re.findall(r": train (\S+) \(seed", shown))
    run = Run(load_benchmark(toy / "toy.yaml"), toy / "runs/toy", 0)
    baseline = {"EW": None, "VisATB": str(toy / "runs/toy/seed0/zero_shot_metrics/EW")}
    for model, expected in baseline.items():
        words = suite_command(run, model)
        assert words[1:3] == ["-m", "llava.eval.suite"]
        flags = build_parser().parse_args(words[3:])
        assert (flags.model_name, flags.data, flags.benchmarks, flags.baseline) == (model, "eval", "pope,mme", expected)
        assert flags.overwrite and flags.model_path == str(toy / "runs/toy/seed0/models" / model)
