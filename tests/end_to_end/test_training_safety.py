"""What a training run must survive: kills at every write of a save, a full disk, signals, hostile files."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from forked import Forked
from tiny import make_tiny_training, weighted_words
from waiting import until

from transformers_patch.publish import seal

STEPS = 9


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_tiny_training(tmp_path_factory.mktemp("safety"), 24)


def start(repository: Path, place: Path, output: Path, *flags: str) -> Forked:
    length = ("--per_device_train_batch_size", 4, "--max_steps", STEPS, "--no_cuda", True)
    words = ["-m", "llava.train.train", *weighted_words(place, output, *length, *flags)]
    return Forked(words, os.environ | {"PYTHONPATH": str(repository)}, repository)


def finish(process: Forked) -> tuple[int, list[str]]:
    """Exit code and lines on stderr, but for transformers' own warnings."""
    err = process.communicate()[1]
    assert "Traceback" not in err, err
    return process.returncode, [line for line in err.splitlines() if line.startswith(("error", "warning: ", "SIG"))]


def train(repository: Path, place: Path, output: Path, *flags: str) -> tuple[int, list[str]]:
    return finish(start(repository, place, output, *flags))


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole(repository, place):
    """The model of a run that nothing happens to, with checkpoints 3, 6 and 9."""
    output = place / "whole"
    assert train(repository, place, output, "--save_strategy", "steps", "--save_steps", "3") == (0, [])
    return output


def driver(repository: Path, what: str, folder: Path) -> dict:
    env = os.environ | {"PYTHONPATH": f"{repository}:{repository / 'tests'}"}
    done = Forked([str(repository / "tests" / "failpoints.py"), what, str(folder)], env, repository)
    out, err = done.communicate(timeout=600)
    assert done.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def test_a_kill_at_any_write_of_a_save_costs_nothing(repository, tmp_path):
    found = driver(repository, "kills", tmp_path)
    assert found["points"] > 50 and found["wrong"] == []


def test_a_file_size_limit_leaves_the_last_checkpoint_and_one_line(repository, tmp_path):
    found = driver(repository, "disk", tmp_path)
    assert found["wrong"] == [] and len(found["message"]) >= 6
    assert all("File too large" in line for line in found["message"])


def test_sigterm_saves_exits_with_143_and_the_resumed_model_is_equal(repository, place, whole, tmp_path):
    output = tmp_path / "model"
    flags = ("--save_strategy", "no", "--dataloader_num_workers", "1")
    process = start(repository, place, output, *flags)
    log = output / "train_log.jsonl"
    until(lambda: log.exists() and log.stat().st_size, process)
    os.killpg(process.pid, signal.SIGTERM)  # its worker too, as Slurm does
    code, message = finish(process)
    assert code == 143, message
    (checkpoint,) = output.glob("checkpoint-*")
    assert message == [f"SIGTERM: saved {checkpoint.name}; run the same command again to resume"]
    assert not (output / "model.safetensors").exists()
    assert train(repository, place, output, *flags) == (0, [])
    assert digest(output) == digest(whole)
    lines = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    assert lines == [json.loads(line)["loss"] for line in (whole / "train_log.jsonl").read_text().splitlines()]


def unfinished(whole: Path, output: Path) -> Path:
    """A copy of a run as a kill after its checkpoint-6 would have left it."""
    output.mkdir()
    subprocess.run(["cp", "-r", *map(str, whole.glob("*")), str(output)], check=True)
    subprocess.run(["rm", "-r", str(output / "checkpoint-9"), str(output / "model.safetensors")], check=True)
    run = json.loads((output / "visatb_run.json").read_text())
    (output / "visatb_run.json").write_text(json.dumps({"fingerprint": run["fingerprint"], "finished": False}))
    return output


def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(repository, place, whole, tmp_path):
    output = unfinished(whole, tmp_path / "model")
    os.truncate(output / "checkpoint-6" / "optimizer.pt", 1000)
    code, message = train(repository, place, output, "--save_strategy", "no")
    assert code == 0 and len(message) == 1
    assert "optimizer.pt has 1,000 bytes of" in message[0] and "resuming from checkpoint-3" in message[0]
    assert digest(output) == digest(whole)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_late_bad_image_costs_no_step_and_can_be_skipped(repository, place, tmp_path, workers):
    images = shutil.copytree(place / "images", tmp_path / "images")
    flags = ("--image_folder", str(images), "--save_strategy", "no", "--dataloader_num_workers", workers)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(42)).tolist()
    late = next(n for n in order[16:20] if n % 6 != 5)  # read by the fifth step
    content = (images / f"{late:03d}.png").read_bytes()
    (images / f"{late:03d}.png").write_bytes(content[:-60])  # its header is sound
    output = tmp_path / "model"
    code, (line,) = train(repository, place, output, *flags)
    assert code == 2 and f"record {late} (id 'tiny-{late}')" in line and f"{late:03d}.png" in line
    assert "--bad_image skip" in line and "checkpoint-4 is saved" in line
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-4"]
    assert train(repository, place, output, *flags, "--bad_image", "skip") == (0, [])
    steps = [json.loads(line)["step"] for line in (output / "train_log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    assert json.loads((output / "visatb_run.json").read_text())["bad_images"] == 1


class Hostile:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_pickle_with_code_under_a_forged_manifest_is_refused_in_a_line(repository, place, whole, tmp_path):
    output = unfinished(whole, tmp_path / "model")
    checkpoint = output / "checkpoint-6"
    facts = json.loads((checkpoint / "manifest.json").read_text())
    del facts["files"]
    torch.save(Hostile(tmp_path / "ran"), checkpoint / "optimizer.pt")
    (checkpoint / "manifest.json").unlink()
    seal(checkpoint, **facts)
    code, message = train(repository, place, output, "--save_strategy", "no")
    assert code == 2 and len(message) == 1 and "holds more than tensors and numbers" in message[0]
    assert not (tmp_path / "ran").exists() and not (output / "model.safetensors").exists()


@pytest.mark.parametrize("steps, checkpoints_that_fit", [("4", 1.5), ("5", 1.15)], ids=["checkpoint", "model"])
def test_a_full_disk_ends_in_a_line_with_the_last_checkpoint_whole(
    repository, place, whole, tmp_path, steps, checkpoints_that_fit
):
    mounted = tmp_path / "small"
    mounted.mkdir()
    size = int(checkpoints_that_fit * sum(path.stat().st_size for path in (whole / "checkpoint-6").iterdir()))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mounted)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk; the test with files that cannot grow stands in")
    try:
        output = mounted / "model"
        flags = ("--save_strategy", "steps", "--save_steps", steps, "--save_total_limit", "1")
        code, message = train(repository, place, output, *flags)
        assert code == 1 and len(message) == 1, message
        assert "No space left on device" in message[0] and f"{output}" in message[0]
        assert {path.name for path in output.iterdir()} <= {
            ".lock", f"checkpoint-{steps}", "visatb_run.json", "train_log.jsonl",
        }  # fmt: skip
        subprocess.run(["mount", "-o", f"remount,size={4 * size}", str(mounted)], check=True)
        assert train(repository, place, output, *flags) == (0, [])
        assert digest(output) == digest(whole)
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
