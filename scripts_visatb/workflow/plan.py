"""What a run has still to do: its lock, the count of its steps, the time that they will take.

The plan of a run (`.plan.json`) lists the records of its steps, each with the time since when it counts. A run that is
started again after an interruption keeps what is counted already.
"""

import fcntl
import os
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from scripts_visatb.data.mixes import MANIFEST
from visatb.errors import InputError
from visatb.files import read_json, write_json

LOCK, PLAN = ".lock", ".plan.json"
# The process that a user sees and ends; without it (plain snakemake) the lock names its own.
PID_VARIABLE = "VISATB_RUN_PID"
LONG_KINDS = ("train", "infer", "suite")  # without the time of one of each nothing can be said of the others


@dataclass(frozen=True)
class Planned:
    """A step of a plan.

    Attributes:
        record: the file that exists once it is done, relative to the run's folder.
        kind: steps of one kind take a time in proportion to their data.
        seed, data: of a training, the key of its file in the manifest of that seed.
    """

    record: str
    kind: str
    seed: str | None = None
    data: str | None = None


def runs_folder(config: Mapping[str, Any]) -> str:
    """The folder of the runs, as it was typed: `--config runs=...`, or `runs`.

    Raises:
        InputError: if Snakemake read it as a number, or file patterns and flags could not hold it.
    """
    folder = config.get("runs", "runs")
    if not isinstance(folder, str):
        raise InputError(f"--config runs={folder}: was read as a number. Write --config runs=./FOLDER.")
    if not folder or folder.startswith("-") or any(ch in "{}'\"#:" or not ch.isprintable() for ch in folder):
        raise InputError(
            f"the runs folder must be a path without quotes, braces, '#', ':' and line breaks, no '-' first, got "
            f"{folder[:100]!r}. Choose another."
        )
    return os.path.normpath(folder)


def lock_run(folder: Path) -> IO[str]:
    """Hold the lock of a run's folder until the returned stream is closed or the process ends, however it ends.

    Raises:
        InputError: naming the process that holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stream = open(folder / LOCK, "a+")  # noqa: SIM115 - what is closed is no longer locked
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        holder = stream.read().strip() or "unknown pid"
        stream.close()
        raise InputError(
            f"{folder}: another process is making this run ({holder}). Wait for it, or end it with kill."
        ) from None
    stream.truncate(0)
    stream.write(f"pid {os.environ.get(PID_VARIABLE) or os.getpid()} on {platform.node()}\n")
    stream.flush()
    return stream


def note_plan(folder: Path, planned: Iterable[Planned]) -> None:
    """Note the steps that are about to run; those of an interrupted plan that are done stay in the count."""
    path = folder / PLAN
    earlier = read_json(path) if path.is_file() else {"steps": []}
    finished = [step for step in earlier["steps"] if is_done(folder, step)]
    now = time.time()
    steps = [asdict(step) | {"since": now} for step in planned]
    if len(finished) < len(earlier["steps"]):
        new = {step["record"] for step in steps}
        steps += [step for step in finished if step["record"] not in new]
    write_json(path, {"started": now, "steps": steps})


def progress(plan: Path | None) -> str:
    """How many of the planned steps are done, as ` 7/32`; empty without a plan."""
    if plan is None or not plan.is_file():
        return ""
    done, steps = count(plan)
    return f"{done:>{len(str(steps))}}/{steps}"


def count(plan: Path) -> tuple[int, int]:
    """How many of the planned steps are done, and how many there are."""
    steps = read_json(plan)["steps"]
    return sum(is_done(plan.parent, step) for step in steps), len(steps)


def show_resumption(folder: Path) -> None:
    """Print how far a run is that an interruption had ended."""
    done, _ = count(folder / PLAN)
    if done:
        left = f", {remaining}" if (remaining := time_left(folder / PLAN)) else ""
        print(f"{progress(folder / PLAN):>7}  resume {folder}{left}", flush=True)


def time_left(plan: Path | None) -> str:
    """The time that the remaining steps will take, as `about 2 h 10 min left`; empty where it is not known or short."""
    seconds = None if plan is None or not plan.is_file() else seconds_left(plan)
    minutes = round((seconds or 0) / 60)
    if not minutes:
        return ""
    hours = f"{minutes // 60} h " if minutes >= 60 else ""
    return f"about {hours}{minutes % 60} min left"


def seconds_left(plan: Path) -> float | None:
    """What the steps that are done let expect: trainings by their samples, as many steps at a time as so far."""
    content = read_json(plan)
    folder, now = plan.parent, time.time()
    spent: dict[str, float] = {}
    units: dict[str, float] = {}
    ahead: dict[str, float] = {}
    busy = 0.0
    samples = _samples(folder, content["steps"])
    for step in content["steps"]:
        kind, size = step["kind"], samples.get((step["seed"], step["data"]), 1)
        if not is_done(folder, step):
            ahead[kind] = ahead.get(kind, 0) + size
            continue
        record = read_json(folder / step["record"])
        spent[kind] = spent.get(kind, 0) + record["seconds"]
        units[kind] = units.get(kind, 0) + size
        busy += record["seconds"] if record["started"] >= content["started"] else 0
    if any(kind in LONG_KINDS and kind not in units for kind in ahead):
        return None
    total = sum(size * spent[kind] / units[kind] for kind, size in ahead.items() if kind in units)
    return total / max(1.0, busy / max(now - content["started"], 1e-9))


def _samples(folder: Path, steps: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    """(seed, data) of a training -> its number of records, as far as the sub-datasets are drawn."""
    found = {}
    for seed in {step["seed"] for step in steps if step["data"]}:
        manifest = folder / f"seed{seed}" / "subsets" / MANIFEST
        if manifest.is_file():
            entries = read_json(manifest)["files"]
            found |= {(seed, key): entry["records"] for key, entry in entries.items()}
    return found


def is_done(folder: Path, step: dict[str, Any]) -> bool:
    """Whether a step of a plan has succeeded since it was planned."""
    record = folder / step["record"]
    return record.is_file() and record.stat().st_mtime >= step["since"]
