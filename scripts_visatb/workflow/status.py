"""Prints the progress of a run: steps done, running, failed and left, start and remaining time, and where the logs are.

    python -m scripts_visatb.workflow.status runs/demo
    visatb status runs/demo --json

Works during a run, from another terminal or machine, and after it has ended, however it ended. Nothing is changed.
"""

import fcntl
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts_visatb.workflow.job import failure_file, last_lines, lock_file, this_attempt
from scripts_visatb.workflow.pages import duration
from scripts_visatb.workflow.plan import LOCK, PLAN, is_done, time_left
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import read_json

DONE, RUNNING, FAILED, LEFT = "done", "running", "failed", "left"
LOG_LINES = 8  # of a failed step
WIDTH = 100  # of the last line of a running step
_TIME = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True)
class Step:
    """A step of the plan.

    Attributes:
        name: name of the step.
        kind: steps of one kind do the same for different models.
        state: DONE, RUNNING, FAILED or LEFT; a step that was stopped is left.
        log: its output.
        since: start of its last attempt, seconds since the epoch; None if it has none yet.
        seconds: how long it took (done) or has taken (running); None otherwise.
        code: exit code of a failed step.
        lines: the end of the log of a step that runs or has failed.
    """

    name: str
    kind: str
    state: str
    log: str
    since: float | None = None
    seconds: float | None = None
    code: int | None = None
    lines: tuple[str, ...] = ()


def read_status(folder: Path) -> list[Step]:
    """The steps of a run's plan in order of start; those not started come last.

    Raises:
        InputError: the folder contains no run.
    """
    plan = folder / PLAN
    if not plan.is_file():
        raise InputError(f"{folder}: no run was started there. Give the folder of a run, runs/<benchmark name>.")
    steps = [_step(folder, planned) for planned in read_json(plan)["steps"]]
    return sorted(steps, key=lambda step: (step.state == LEFT, step.since or 0.0))


def running_steps(folder: Path) -> list[Step]:
    """The steps that run now; reads less than `read_status`."""
    planned = read_json(folder / PLAN)["steps"]
    ahead = [step for step in planned if is_locked(lock_file(folder / step["record"])) and not is_done(folder, step)]
    steps = (_step(folder, step) for step in ahead)
    return sorted((step for step in steps if step.state == RUNNING), key=lambda step: step.since or 0.0)


def _step(folder: Path, planned: dict[str, Any]) -> Step:
    record = folder / planned["record"]
    seed = record.relative_to(folder).parts[0].removeprefix("seed") if planned["seed"] is not None else None
    log = folder / "logs" / (f"seed{seed}_{record.stem}.log" if seed is not None else f"{record.stem}.log")
    name = record.stem.replace("_", " ") + (f" (seed {seed})" if seed is not None else "")
    if is_done(folder, planned):
        found = read_json(record)
        return Step(found["name"], planned["kind"], DONE, str(log), found["started"], found["seconds"])
    if is_locked(lock_file(record)):
        since = _started(lock_file(record))
        took = None if since is None else time.time() - since
        lines = tuple(this_attempt(last_lines(log, 1))) if log.is_file() else ()
        return Step(name, planned["kind"], RUNNING, str(log), since, took, lines=lines)
    failure = failure_file(record)
    if failure.is_file() and failure.stat().st_mtime >= planned["since"]:
        found = read_json(failure)
        lines = tuple(this_attempt(last_lines(log, LOG_LINES))) if log.is_file() else ()
        return Step(name, planned["kind"], FAILED, str(log), found["started"], None, found["code"], lines)
    return Step(name, planned["kind"], LEFT, str(log))


def is_locked(path: Path) -> bool:
    """Whether a process, on any machine that shares the file system's locks, holds a lock file."""
    if not path.is_file():
        return False
    with open(path) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
    return False


def _started(lock: Path) -> float | None:
    """When the step that holds a lock began; None while it has not written the time yet."""
    text = lock.read_text(encoding="utf-8").strip()
    return float(text) if text else None


def describe(folder: Path, steps: list[Step]) -> str:
    """The status as text."""
    counts = Counter(step.state for step in steps)
    first = min((step.since for step in steps if step.since), default=None)
    since = f", started {time.strftime(_TIME, time.localtime(first))}" if first else ""
    if counts[DONE] == len(steps):
        return f"{folder}: all {len(steps)} steps are done{since}{_results(folder)}"
    left = f", {text}" if (text := time_left(folder / PLAN)) else ""
    parts = [f"{counts[state]} {state}" for state in (RUNNING, FAILED, LEFT) if counts[state]]
    lines = [f"{folder}: {counts[DONE]} of {len(steps)} steps done, {', '.join(parts)}{since}{left}"]
    if is_locked(folder / LOCK):
        lines.append(f"made by {(folder / LOCK).read_text().strip() or 'another process'}")
    else:
        lines.append("not running: the same command as before resumes it")
    for step in (step for step in steps if step.state == RUNNING):
        took = "" if step.seconds is None else f", for {duration(step.seconds)}"
        lines += ["", f"running: {step.name}{took} ({step.log})", *(f"  | {line[:WIDTH]}" for line in step.lines)]
    for step in (step for step in steps if step.state == FAILED):
        lines += ["", f"failed: {step.name} with exit code {step.code}, log {step.log}"]
        lines += [f"  | {line[:WIDTH]}" for line in step.lines]
    done = [step for step in steps if step.state == DONE]
    if done:
        lines += ["", f"last done: {max(done, key=lambda step: step.since + step.seconds).name}"]
    waiting = Counter(step.kind for step in steps if step.state == LEFT)
    if waiting:
        lines += ["left: " + ", ".join(f"{count} {kind}" for kind, count in waiting.most_common())]
    return "\n".join(lines)


def _results(folder: Path) -> str:
    """The pages of a finished run."""
    pages = [str(folder / name) for name in ("report.html", "answers.html") if (folder / name).is_file()]
    return f"\nlook at {' and '.join(pages)}" if pages else ""


def main() -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, runs/<benchmark name>")
    parser.add_argument("--json", action="store_true", help="print every step as JSON, for programs")
    args = parser.parse_args()
    steps = read_status(args.run)
    print(json.dumps([asdict(step) for step in steps], indent=1) if args.json else describe(args.run, steps))


if __name__ == "__main__":
    run(main)
