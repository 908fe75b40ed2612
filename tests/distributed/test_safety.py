"""Two ranks: a signal or a full disk of one is everybody's, and nobody waits for a rank that has failed."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import run_ranks
from tiny import make_tiny_training, training_words
from waiting import PATIENCE, until

# Writes its rank's process id; FULL_RANK's files cannot grow once its first steps are logged.
ENTRY = """
import os, pathlib, resource
import transformers
from llava.train.train import main
from perf.distributed_data import spare_compiling
from transformers_patch import Trainer
from visatb.cli import run

rank = os.environ["RANK"]
pathlib.Path(os.environ["PIDS"], rank).write_text(str(os.getpid()))

class Full(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if rank == os.environ.get("FULL_RANK") and state.global_step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

begin = Trainer.train
def train_with_callback(self, *args, **kwargs):
    self.add_callback(Full())
    return begin(self, *args, **kwargs)
Trainer.train = train_with_callback
spare_compiling()
run(main)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, repository):
    folder = make_tiny_training(tmp_path_factory.mktemp("two_ranks"), 22)
    (folder / "entry.py").write_text(ENTRY)
    config = json.loads((repository / "scripts_visatb" / "zero3.json").read_text())
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0  # else the tiny parameters stay whole
    (folder / "zero3.json").write_text(json.dumps(config))
    return folder


def command(place: Path, output: Path, *flags: object) -> list[str]:
    more = ("--benchmark", place / "tiny.yaml", "--pretrain_mm_mlp_adapter", place / "mm_projector.bin")
    batches = ("--per_device_train_batch_size", 2)
    return [str(place / "entry.py"), *training_words(place, output, *more, *batches, *flags)]


def environment(repository: Path, output: Path, **variables: str) -> dict[str, str]:
    output.mkdir(exist_ok=True)
    pids = output.with_suffix(".pids")
    pids.mkdir(exist_ok=True)
    return os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "PIDS": str(pids)} | variables


def launch(repository: Path, place: Path, output: Path, *flags: object) -> subprocess.Popen:
    """The two ranks by torch's launcher."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.Popen(
        [*launcher, *command(place, output, *flags)], env=environment(repository, output),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> tuple[list[str], str]:
    """Our lines on the launcher's stderr, and all of it."""
    try:
        err = process.communicate(timeout=PATIENCE)[1]
    except subprocess.TimeoutExpired:  # ranks that wait for each other
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return reported(err), err


def reported(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith(("error: ", "SIG"))]


def train(repository: Path, place: Path, output: Path, *flags: object, **variables: str) -> tuple[list[int], list[str]]:
    """Exit codes of the two ranks, neither of which is stopped from outside, and the lines they report."""
    words, env = command(place, output, *flags), environment(repository, output, **variables)
    codes, err = run_ranks(words, 2, env, repository)
    assert "Traceback" not in err, err
    return codes, reported(err)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_a_signal_to_one_rank_stops_both_and_the_resumed_model_is_equal(repository, place, tmp_path):
    flags = ("--max_steps", "30", "--save_strategy", "no")
    output = tmp_path / "cut"
    process = launch(repository, place, output, *flags)
    log = output / "train_log.jsonl"
    until(lambda: log.exists() and log.stat().st_size, process)
    os.kill(int((tmp_path / "cut.pids" / "1").read_text()), signal.SIGTERM)
    lines, err = finish(process)
    (checkpoint,) = output.glob("checkpoint-*")
    assert lines == [f"SIGTERM: saved {checkpoint.name}; run the same command again to resume"], err[-3000:]
    assert "exitcode  : 143" in err
    assert {path.name for path in checkpoint.iterdir()} >= {"random_state_0.pt", "random_state_1.pt"}
    assert train(repository, place, output, *flags) == ([0, 0], [])
    assert train(repository, place, tmp_path / "whole", *flags) == ([0, 0], [])
    assert digest(output) == digest(tmp_path / "whole")


def test_a_refused_folder_is_reported_once(repository, place, tmp_path):
    output = tmp_path / "foreign"
    output.mkdir()
    (output / "thesis.tex").touch()
    lines, err = finish(launch(repository, place, output))
    assert len(lines) == 1 and "has other content (thesis.tex)" in lines[0] and "exitcode  : 2" in err, err[-3000:]
    assert [path.name for path in output.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_that_cannot_write_stops_all_and_keeps_the_last_checkpoint(repository, place, tmp_path, rank):
    """Under ZeRO-3, where each rank writes a part and all wait for each other in between."""
    output = tmp_path / "full"
    flags = ("--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "1")
    flags += ("--deepspeed", str(place / "zero3.json"))
    codes, lines = train(repository, place, output, *flags, FULL_RANK=rank)
    assert codes == [1, 1] and len(lines) == 1, (codes, lines)
    assert f"{output / 'checkpoint-4'} could not be written" in lines[0] and "File too large" in lines[0]
    left = {path.name for path in output.iterdir()}
    assert left == {".lock", "checkpoint-2", "train_log.jsonl", "visatb_run.json"}
    assert train(repository, place, output, *flags) == ([0, 0], [])
    assert (output / "checkpoint-4" / "manifest.json").exists() and not (output / "checkpoint-2").exists()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_bad_image_of_one_rank_stops_all_with_what_was_reached_saved(repository, place, tmp_path, workers):
    """Under ZeRO-3, where every rank writes its part."""
    images = shutil.copytree(place / "images", tmp_path / "images")
    order = torch.randperm(22, generator=torch.Generator().manual_seed(42)).tolist()
    late = next(n for n in order[8:12] if n % 6 != 5)  # read in the third step
    content = (images / f"{late:03d}.png").read_bytes()
    (images / f"{late:03d}.png").write_bytes(content[:-60])  # its header is sound
    output = tmp_path / "model"
    flags = ("--image_folder", str(images), "--max_steps", "5", "--save_strategy", "no")
    flags += ("--dataloader_num_workers", workers, "--deepspeed", str(place / "zero3.json"))
    codes, (line,) = train(repository, place, output, *flags)
    assert codes == [2, 2] and f"id 'tiny-{late}'" in line and "checkpoint-2 is saved" in line, (codes, line)
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-2"]
    (images / f"{late:03d}.png").write_bytes(content)
    assert train(repository, place, output, *flags) == ([0, 0], [])
    steps = [json.loads(line)["step"] for line in (output / "train_log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5]
