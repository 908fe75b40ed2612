"""A benchmark of two small tasks with stand-ins for training and inference, to try the run graph on."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml
from PIL import Image
from waiting import PATIENCE

TRAIN = """#!/usr/bin/env bash
set -euo pipefail
echo "$(basename "$OUTPUT_DIR") seed=$SEED data=$(basename "$DATA_PATH") $WEIGHT_METHOD \\
weights=$VISATB_WEIGHTS ${TASK_SAMPLING:-}" >> calls.log
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
    "baselines": ["TLA", "sampling:weights"],
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
    done = subprocess.run(command(*more), cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def plan(folder: Path, benchmark: Path | str, *targets: str) -> subprocess.CompletedProcess:
    """What plain `snakemake -n` says, without our own start command; in this process, in a tenth of the time."""
    from snakemake.cli import main as snakemake

    snakefile = Path(__file__).resolve().parents[1] / "scripts_visatb/workflow/Snakefile"
    words = ["-s", str(snakefile), "--configfile", str(benchmark), "--cores", "2", "-n", *targets]
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            snakemake(words)
        except SystemExit as end:
            code = end.code or 0
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def calls(folder: Path) -> list[str]:
    """The first word of each call of a stand-in so far."""
    log = folder / "calls.log"
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []
