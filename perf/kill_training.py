"""Kills training runs with SIGKILL at random moments, runs the same command again, and compares the final models.

    python -m perf.kill_training --kills 20
    python -m perf.kill_training --ranks 2 --zero3 --kills 5

The whole of llava/train/train.py runs on a tiny model, 60 steps with a checkpoint every 10. A killed run and its
resumption are a pair; each must end with the model.safetensors (SHA-256) of an uninterrupted run, and may repeat at
most one save interval of steps. Exit code 1 otherwise.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from perf.distributed_data import (
    ROOT,
    SAMPLES_PER_STEP,
    SEED,
    spare_compiling,
    start_processes,
    training_flags,
    write_deepspeed,
    write_material,
)
from visatb.cli import ArgumentParser, run

RUN_SECONDS = 600


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="pairs of runs")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps per run")
    parser.add_argument("--save_steps", type=int, default=10, help="steps between checkpoints")
    parser.add_argument("--ranks", type=int, default=1, choices=(1, 2, 4), help="processes")
    parser.add_argument("--zero3", action="store_true", help="use DeepSpeed ZeRO-3 in place of plain processes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    args = parser.parse_args(argv)
    if args.zero3 and args.ranks == 1:
        parser.error("--zero3 splits a model over ranks. Set --ranks 2 or 4")
    return args


def main() -> int:
    """Train once, then kill and resume; print a line per pair."""
    if sys.argv[1:2] == ["train"]:
        return train_rank(sys.argv[2:])
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        return kill_runs(args, Path(folder))


def train_rank(flags: list[str]) -> int:
    """Run as one process of a run."""
    from llava.train import train as entry

    if "--deepspeed" in flags:
        spare_compiling()
    return entry.main(flags)


def kill_runs(args: argparse.Namespace, folder: Path) -> int:
    """The uninterrupted run, then the pairs; returns the exit code."""
    write_material(folder, args.steps, SEED)
    write_deepspeed(ROOT / "scripts_visatb" / "zero3.json", folder / "zero3.json")
    draw = random.Random(args.seed)
    started = time.monotonic()
    finish(args, folder, folder / "whole")
    wanted = digest(folder / "whole")
    print(f"{'kill':>4}  {'after step':>10}  {'checkpoint':>10}  {'redone':>6}  model")
    good = 0
    for n in range(1, args.kills + 1):
        output = folder / f"killed-{n}"
        reached = kill_after(args, folder, output, step=draw.randrange(args.steps), delay_s=draw.uniform(0, 0.3))
        found = max((int(path.name.split("-")[1]) for path in output.glob("checkpoint-*")), default=0)
        finish(args, folder, output)
        same = digest(output) == wanted
        # The log is written after a step and before its checkpoint: a kill in between redoes one interval.
        good += same and reached - found <= args.save_steps
        print(
            f"{n:>4}  {reached:>10}  {found:>10}  {reached - found:>6}  {'equal' if same else 'DIFFERENT'}", flush=True
        )
    how = f"{args.ranks} process{'es' * (args.ranks > 1)}{' under ZeRO-3' * args.zero3}"
    print(f"{good} of {args.kills} equal, {args.steps} steps, {how}, {time.monotonic() - started:.0f} s")
    return int(good != args.kills)


def start(args: argparse.Namespace, folder: Path, output: Path) -> subprocess.Popen:
    """Start a run, or the same run again."""
    flags = {
        "max_steps": args.steps,
        "per_device_train_batch_size": SAMPLES_PER_STEP // args.ranks,
        "save_strategy": "steps",
        "save_steps": args.save_steps,
        "save_total_limit": 1,
        "weight_method": "RLW",  # which has a state and random numbers
        "learning_rate": 1e-3,
    }
    if args.zero3:
        flags["deepspeed"] = folder / "zero3.json"
    words = ["train", *training_flags(folder, output, **flags)]
    with open(folder / "log", "wb") as log:
        return start_processes(args.ranks, "perf.kill_training", words, log)


def kill_after(args: argparse.Namespace, folder: Path, output: Path, step: int, delay_s: float) -> int:
    """Run until a step is in the log and a little longer, then kill all processes; returns the last step in the log."""
    process = start(args, folder, output)
    while process.poll() is None and logged(output) < step:
        time.sleep(0.002)
    time.sleep(delay_s)
    kill(process)
    return logged(output)


def kill(process: subprocess.Popen) -> None:
    """Send SIGKILL to a launcher and all that it started (torchrun's ranks have their own sessions)."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    for pid in (process.pid, *map(int, children)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    while any(os.path.exists(f"/proc/{pid}") for pid in children):  # or the next run finds the folder locked
        time.sleep(0.01)


def finish(args: argparse.Namespace, folder: Path, output: Path) -> None:
    """Run to the end. Raises RuntimeError with the end of the output if that fails."""
    process = start(args, folder, output)
    try:
        code = process.wait(RUN_SECONDS)
    except BaseException:
        kill(process)
        raise
    if code:
        lines = (folder / "log").read_text(errors="replace").splitlines()[-25:]
        raise RuntimeError("\n".join([f"the run ended with {code}:", *lines]))


def logged(output: Path) -> int:
    """The last step in a run's log; 0 before the first."""
    log = output / "train_log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (json.JSONDecodeError, KeyError):  # cut off by the kill
            continue
    return 0


def digest(output: Path) -> str:
    """SHA-256 of a run's model."""
    return hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()


if __name__ == "__main__":
    run(main)
