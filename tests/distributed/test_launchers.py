"""finetune_academic.sh on two "nodes" of this machine, and as a Slurm job with a stand-in for srun."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from forked import free_port, given_by, run_forked
from tiny import TASKS, make_tiny_checkpoint, make_tiny_dataset
from waiting import PATIENCE, until

# Starts two ranks as Slurm would, and ends with the highest of their exit codes.
SRUN = """#!/bin/bash
while [ "${1#--}" != "$1" ]; do shift; done
for rank in 0 1; do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NTASKS=2 "$@" &
    ranks+=($!)
done
code=0
for rank in "${ranks[@]}"; do wait "$rank" || { this=$?; [ $this -le $code ] || code=$this; }; done
exit $code
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; else echo "scontrol $*" >> "$SCONTROL_LOG"; fi
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, repository):
    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("launchers"))
    make_tiny_dataset(folder, 16, "data.json")
    tasks = [{"name": name, "weight": 1.0, "files": {"train": "data.json"}} for name in TASKS]
    content = {"name": "tiny", "data_folder": ".", "image_folder": ".", "tasks": tasks}
    (folder / "tiny.yaml").write_text(json.dumps(content))  # JSON is YAML
    (folder / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    command, env = script(repository, folder, folder / "one", PER_DEVICE_TRAIN_BATCH_SIZE="8")
    one = run_forked(*given_by(command, env, repository), repository)
    assert one.returncode == 0, one.stderr
    return folder


def script(repository: Path, place: Path, output: Path, name="finetune_academic.sh", **variables):
    """The command that starts a script, and its environment."""
    given = {
        "DATA_PATH": place / "data.json",
        "IMAGE_FOLDER": place / "images",
        "OUTPUT_DIR": output,
        "BASE_MODEL_PATH": place / "llama",
        "VISION_TOWER": place / "vision_tower",
        "PRETRAIN_MM_MLP_ADAPTER": place / "mm_projector.bin",
        "BENCHMARK": place / "tiny.yaml",
        "VISATB_WEIGHTS": "0.5 1.5 1.2 1.0",
        "PER_DEVICE_TRAIN_BATCH_SIZE": "4",
        "LEARNING_RATE": "1e-3",
        "NUM_TRAIN_EPOCHS": "10",
        "DATALOADER_NUM_WORKERS": "0",
        "GRADIENT_CHECKPOINTING": "False",
        "SAVE_STRATEGY": "no",
        "REPORT_TO": "none",
        "NUM_GPUS": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHON": sys.executable,
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
    }
    env = os.environ | {name: str(value) for name, value in (given | variables).items()}
    return ["bash", str(repository / "scripts_visatb" / name)], env


def start(repository: Path, *where, **variables) -> subprocess.Popen:
    command, env = script(repository, *where, **variables)
    return subprocess.Popen(
        command, cwd=repository, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> int:
    """Its exit code; `reported` holds what it printed."""
    try:
        process.reported, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:  # ranks that wait for each other
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode


def losses(output: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (output / "train_log.jsonl").read_text().splitlines()]


def test_two_nodes_train_the_model_of_one_process(repository, place, tmp_path):
    port, output = free_port(), tmp_path / "nodes"
    nodes = [
        start(
            repository, place, output, NNODES="2", NODE_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=port
        )
        for rank in (0, 1)
    ]  # fmt: skip
    assert [finish(node) for node in nodes] == [0, 0], nodes[0].reported + nodes[1].reported
    assert losses(output) == pytest.approx(losses(place / "one"), abs=2e-5)


def test_a_slurm_job_saves_at_its_time_limit_requeues_and_resumes(repository, place, tmp_path):
    output, log = tmp_path / "job", tmp_path / "scontrol.log"
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "here", "SCONTROL_LOG": log, "SAVE_STRATEGY": "steps"}
    run = start(repository, place, output, "slurm/finetune.sbatch", MASTER_PORT=free_port(), **job)
    until(lambda: (output / "train_log.jsonl").exists() and len(losses(output)) > 1, run)
    for process in psutil.Process(run.pid).children(recursive=True):  # Slurm signals the ranks, not the batch script
        if any(word.endswith("train_mem.py") for word in process.cmdline()):
            process.terminate()
    assert finish(run) == 143, run.reported
    assert log.read_text() == "scontrol requeue 4711\n" and list(output.glob("checkpoint-*"))
    again = start(repository, place, output, "slurm/finetune.sbatch", MASTER_PORT=free_port(), **job)
    assert finish(again) == 0, again.reported
    assert losses(output) == pytest.approx(losses(place / "one"), abs=2e-5)
    assert log.read_text() == "scontrol requeue 4711\n"


@pytest.mark.parametrize(
    ("work", "code", "requeued"),
    [
        ("mkdir -p $OUTPUT_DIR/checkpoint-10", 143, True),
        ("mkdir -p $OUTPUT_DIR/checkpoint-9", 143, True),
        ("true", 143, False),  # a limit shorter than the start: it would be queued for ever
        ("mkdir -p $OUTPUT_DIR/checkpoint-10", 2, False),
    ],
)
def test_a_slurm_job_queues_again_only_if_it_came_further(repository, place, tmp_path, work, code, requeued):
    script, log, output = tmp_path / "script.sh", tmp_path / "scontrol.log", tmp_path / "job"
    (output / "checkpoint-8").mkdir(parents=True)
    script.write_text(f"{work}; exit {code}")
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "here", "SCONTROL_LOG": log, "SCRIPT": script}
    run = start(repository, place, output, "slurm/finetune.sbatch", **slurm)
    assert finish(run) == code
    assert (log.exists() and log.read_text() == "scontrol requeue 4711\n") == requeued
