"""Runs one step of the graph: output goes to a log, time and memory to a record that exists only after success.

    python -m scripts_visatb.workflow.job --name "train mini" --record done.json --log train.log -- bash train.sh

The record is what Snakemake looks for. If the process that started the step dies, even by SIGKILL, the step ends with
it, so that no old process writes into the folders when the run is started again.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from scripts_visatb.workflow.plan import progress, time_left
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import naming, write_json

POLL_SECONDS = 0.2
NEWS_SECONDS, RAREST_NEWS = 20.0, 600.0  # between progress lines of a step, at its start and later
GRACE_SECONDS = 180.0  # a 7B training saves within it
LOCK_SECONDS = 60.0
LOG_LINES = 25
HEADER = "--- "
# Set to the step's record in all its processes: identifies them after their supervisor has ended.
MARK_VARIABLE = "VISATB_STEP"
# Set if terminal.py shows the progress of the steps, so that they do not print it.
LIVE_VARIABLE = "VISATB_LIVE"


@contextmanager
def exclusive(path: Path, wait: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock file `path`; the kernel frees it when the process ends, however it ends.

    Raises:
        InputError: another process still holds it after `wait` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as stream:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise InputError(f"{path}: another process holds this lock. Wait for it or end it.") from None
                time.sleep(POLL_SECONDS)
        yield


class Step:
    """A running step: its process tree, its peak memory, its log.

    Attributes:
        peak_bytes: highest resident memory of the whole tree seen so far.
    """

    def __init__(self, name: str, command: list[str], log: IO[bytes], log_path: Path, mark: str):
        self.name = name
        self.log_path = log_path
        self.peak_bytes = 0
        self._parent = os.getppid()
        self._stopped_by: int | None = None
        self._news, self._pause = time.monotonic(), NEWS_SECONDS
        # The step stays in our process group: a kill of the group must reach it.
        self._process = psutil.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {MARK_VARIABLE: mark},
        )

    @property
    def stopped(self) -> bool:
        """Whether it was ended by a signal to us, or because the process that started us ended."""
        return self._stopped_by is not None

    def wait(self) -> int:
        """Wait for the step; returns its exit code, 128 + n if signal n ended it or us."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note_signal)
        while (code := self._process.poll()) is None:
            self._measure()
            self._report_news()
            if os.getppid() != self._parent:
                self._stopped_by = signal.SIGTERM
            if self._stopped_by is not None:
                self._stop()
                return 128 + self._stopped_by
            time.sleep(POLL_SECONDS)
        if self._stopped_by is not None:
            return 128 + self._stopped_by
        return code if code >= 0 else 128 - code

    def _note_signal(self, number: int, _frame: object) -> None:
        self._stopped_by = number

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _measure(self) -> None:
        total = 0
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        self.peak_bytes = max(self.peak_bytes, total)

    def _report_news(self) -> None:
        now = time.monotonic()
        if LIVE_VARIABLE in os.environ or now - self._news < self._pause:
            return
        self._news, self._pause = now, min(2 * self._pause, RAREST_NEWS)
        lines = this_attempt(last_lines(self.log_path, 1))
        if lines:
            say(f"{'':>7}  ...    {self.name}: {lines[0][:120]}")

    def _stop(self) -> None:
        end_processes(self._tree())


def end_processes(processes: list[psutil.Process]) -> None:
    """End processes: with SIGTERM, so that a training can save, then with SIGKILL."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=GRACE_SECONDS)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=GRACE_SECONDS)


def leftovers(mark: str) -> list[psutil.Process]:
    """Processes of an earlier attempt at the step, whose own supervisor was killed before it could end them."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get(MARK_VARIABLE) == mark:
                found.append(process)
    return found


def _signal(process: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def say(text: str) -> None:
    """Print a line at once; a closed stdout, whose reader was killed, is ignored."""
    with suppress(BrokenPipeError):
        print(text, flush=True)


def last_lines(path: Path, count: int) -> list[str]:
    """The last non-empty lines of a log; a progress bar counts as its last state."""
    with open(path, "rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - 65536))
        text = stream.read().decode("utf-8", errors="replace")
    lines: deque[str] = deque(maxlen=count)
    for line in text.split("\n"):
        shown = next((part for part in reversed(line.split("\r")) if part.strip()), "")
        if shown:
            lines.append(shown.rstrip())
    return list(lines)


def this_attempt(lines: list[str]) -> list[str]:
    """The lines after the last header, which starts each attempt at the step."""
    starts = [n for n, line in enumerate(lines) if line.startswith(HEADER)]
    return lines[starts[-1] + 1 :] if starts else lines


def lock_file(record: Path) -> Path:
    """The file that is locked while a step runs; it holds the start time (seconds since the epoch)."""
    return record.with_name(f".{record.stem}.lock")


def failure_file(record: Path) -> Path:
    """JSON that exists if the last attempt at a step failed: name, started, code."""
    return record.with_name(f".{record.stem}.failed.json")


def run_step(
    name: str,
    record: Path,
    log_path: Path,
    command: list[str],
    plan: Path | None = None,
    settings: str | None = None,
) -> int:
    """Run a command as a step of the graph; returns its exit code.

    Args:
        name: shown on the terminal and in the report.
        record: JSON to write on success: name, command, log, started, seconds, peak_mib.
        log_path: where its output goes; it is appended to an earlier log.
        command: program and arguments.
        plan: the plan of the run, to report progress.
        settings: noted in the record.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(lock_file(record)), open(log_path, "ab", buffering=0) as log:
        mark = str(record.resolve())
        end_processes(leftovers(mark))
        started, clock = time.time(), time.monotonic()
        failure_file(record).unlink(missing_ok=True)
        lock_file(record).write_text(f"{started}\n", encoding="utf-8")
        with naming(log_path):
            log.write(f"{HEADER}{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command)}\n".encode())
        say(f"{'':>7}  start  {name}")
        step = Step(name, command, log, log_path, mark)
        code = step.wait()
        seconds = time.monotonic() - clock
        if code == 0:
            peak_mib = step.peak_bytes / 2**20
            content = {"name": name, "command": command, "log": str(log_path), "started": started}
            content |= {} if settings is None else {"settings": settings}
            write_json(record, content | {"seconds": round(seconds, 3), "peak_mib": round(peak_mib, 1)})
            left = f", {remaining}" if (remaining := time_left(plan)) else ""
            say(f"{progress(plan):>7}  done   {name}  {seconds:.1f} s{left}")
            return 0
    if step.stopped:
        say(f"{'':>7}  stop   {name}")
        return code
    write_json(failure_file(record), {"name": name, "started": started, "code": code})
    print(f"{name} failed with exit code {code}; the end of {log_path}:", file=sys.stderr)
    for line in this_attempt(last_lines(log_path, LOG_LINES)):
        print(f"  | {line}", file=sys.stderr)
    sys.stderr.flush()
    return code


def main() -> int:
    """Command line."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--name", required=True, help="name of the step")
    parser.add_argument("--record", required=True, type=Path, help="JSON that is written when the step succeeded")
    parser.add_argument("--log", required=True, type=Path, help="file for the step's output")
    parser.add_argument("--plan", type=Path, help="file with the number of steps of the run")
    parser.add_argument("--settings", help="the step's settings as written to the record")
    parser.add_argument("command", nargs="+", help="after --: the program and its arguments")
    args = parser.parse_args()
    return run_step(args.name, args.record, args.log, args.command, args.plan, args.settings)


if __name__ == "__main__":
    run(main)
