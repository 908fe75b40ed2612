"""What a run prints: on a terminal one rewritten line per running step, elsewhere plain lines.

Colours and rewriting are for terminals alone (no colours with NO_COLOR, nothing rewritten with TERM=dumb); a log file
gets a line at the start and end of every step, and progress lines at growing intervals (job.py).
"""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from scripts_visatb.workflow.pages import duration
from scripts_visatb.workflow.plan import PLAN, progress, time_left
from scripts_visatb.workflow.status import running_steps
from visatb.benchmark import Benchmark

if TYPE_CHECKING:
    from rich.console import Console

REFRESHES = 1.0  # per second
ROWS = 12  # of running steps, at most
_STEP_LINE = re.compile(r"\s*(?:\d+/\d+)?\s+(start|done|stop|resume|\.\.\.) ")
_STYLES = {"start": "dim", "done": "green", "stop": "yellow", "resume": "cyan", "...": "dim"}


def is_live() -> bool:
    """Whether output goes to a terminal that can rewrite lines."""
    return sys.stdout.isatty() and sys.stderr.isatty() and not console().is_dumb_terminal


def console() -> "Console":
    """The terminal."""
    from rich.console import Console

    return Console(highlight=False)


class Plain:
    """Prints lines as they come."""

    def line(self, text: str) -> None:
        """Print a line of Snakemake's."""
        print(text, end="", file=sys.stderr, flush=True)


class Live:
    """Prints lines, and below them one for every running step, redrawn every second."""

    def __init__(self, console: "Console"):
        self._console = console

    def line(self, text: str) -> None:
        """Print a line of a step's or of Snakemake's above the running steps."""
        from rich.text import Text

        found = _STEP_LINE.match(text)
        style = _STYLES[found[1]] if found else "red" if " failed with exit code " in text else ""
        self._console.print(Text(text.rstrip("\n"), style), soft_wrap=True)


@contextmanager
def shown(snakemake: subprocess.Popen, folder: Path) -> Iterator[Plain | Live]:
    """Show the steps of a run while Snakemake makes it.

    Args:
        snakemake: its process; its stdout is a pipe if and only if the output is live.
        folder: of the run.
    """
    if snakemake.stdout is None:
        yield Plain()
        return
    from rich.live import Live as Region

    terminal = console()
    view = Live(terminal)
    with Region(
        get_renderable=lambda: rows(folder, terminal.width),
        console=terminal,
        refresh_per_second=REFRESHES,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        reader = threading.Thread(target=_copy, args=(snakemake.stdout, view), daemon=True)
        reader.start()
        yield view
        reader.join()


def _copy(stream: IO[str], view: Live) -> None:
    for line in stream:
        view.line(line)


def rows(folder: Path, width: int) -> Any:
    """The rewritten part: progress of the run, then name, time and last output of every running step."""
    from rich.text import Text

    if not (folder / PLAN).is_file():
        return Text("")
    left = f", {text}" if (text := time_left(folder / PLAN)) else ""
    lines = [f"{progress(folder / PLAN).strip()} steps done{left}"]
    steps = running_steps(folder)
    for step in steps[:ROWS]:
        took = "" if step.seconds is None else duration(int(step.seconds))
        said = step.lines[-1].strip() if step.lines else ""
        lines.append(f"  {step.name}  {took}  {said}")
    lines += [f"  and {len(steps) - ROWS} more"] if len(steps) > ROWS else []
    return Text("\n".join(line[: width - 1] for line in lines), style="cyan", no_wrap=True)


def next_commands(benchmark: Benchmark, file: str, cores: int, seeds: int, targets: list[str]) -> list[str]:
    """Commands that a user may run after a finished run, each with its purpose."""
    command = f"visatb run --benchmark {file} --cores {cores}"
    if "weights" in targets:
        return [f"{command}   # the final models and the report"]
    found = []
    if (benchmark.baselines or benchmark.ablations) and not {"all", "baselines", "ablations"} & set(targets):
        found.append(f"{command} all   # compare with other weightings too")
    if seeds == 1:
        found.append(f"{command} --seeds 0 1 2   # does the order of the weights hold?")
    return found
