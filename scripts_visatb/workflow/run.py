"""Runs the graph: makes what is missing, keeps what exists, and prints the table of results at the end.

    python -m scripts_visatb.workflow.run --benchmark scripts_visatb/benchmarks/demo.yaml --cores 2
    python -m scripts_visatb.workflow.run --benchmark scripts_visatb/benchmarks/demo.yaml --cores 2 -n   # only the plan

Targets come last: `weights`, `main` (the default: the report on VisATB, EW and single tasks), `baselines`, `ablations`,
`all`, `zero_shot`. The same as `snakemake -s scripts_visatb/workflow/Snakefile --configfile FILE --cores N`, but it
first checks the benchmark file and the targets, prints less (of a plan only the jobs), and ends everything that it
started when it is itself killed. Unknown flags are passed to snakemake.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from math import inf
from pathlib import Path

import psutil

from scripts_visatb.workflow.cluster import status_flags
from scripts_visatb.workflow.graph import TARGETS, seeds_of
from scripts_visatb.workflow.job import LIVE_VARIABLE
from scripts_visatb.workflow.places import Run
from scripts_visatb.workflow.plan import LOCK, PID_VARIABLE, PLAN, count, lock_run, runs_folder
from scripts_visatb.workflow.processes import die_with_parent
from scripts_visatb.workflow.report import print_table
from scripts_visatb.workflow.step import ROOT
from scripts_visatb.workflow.terminal import is_live, next_commands, shown
from visatb.benchmark import load_benchmark
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import read_json
from visatb.weighting.report import format_weights

WAIT_SECONDS = 5  # after a signal, until the command reports what it waits for
STEPS = ("prepare", "report", "weigh_seeds")  # targets that are requested by rule name, not by file
PLAN_FLAGS = {"-n", "-np", "-pn", "--dry-run", "--dryrun"}
PROFILE_NOTE = "Using workflow specific profile"  # printed outside of Snakemake's log


def refuse_second(folder: Path) -> None:
    """Refuse a run that another process is working on, before snakemake reads anything."""
    if (folder / LOCK).is_file():
        lock_run(folder).close()


def snakemake_command(
    benchmark: str, cores: int, seeds: list[int] | None, runs: str, flags: list[str], targets: list[str]
) -> list[str]:
    """The snakemake command that makes a benchmark's report, or other targets."""
    # `./`: snakemake reads 2024_11 as a number.
    settings = [f"runs={runs if os.path.isabs(runs) else f'./{runs}'}"]
    if seeds is not None:
        settings.append(f"seeds={seeds}".replace(" ", ""))
    return [
        *(sys.executable, "-c", "from scripts_visatb.workflow.messages import main; main()"),
        *("--configfile", benchmark),
        *("--config", *settings),
        *("--rerun-triggers", "mtime", "params"),  # also with a user's own profile: see profiles/default
        *("--cores", str(cores)),
        *("-s", str(ROOT / "scripts_visatb" / "workflow" / "Snakefile")),
        *flags,
        *(("--", *targets) if targets else ()),  # otherwise a flag that takes a list would consume them
    ]


def split_targets(more: list[str]) -> tuple[list[str], list[str]]:
    """Splits words for snakemake into its flags with their values, and targets.

    The first word after a flag that takes a list is its value; of those after `name=value`, only further `name=value`.

    Raises:
        InputError: naming an unknown target or flag.
    """
    from snakemake.cli import get_argument_parser  # takes half a second

    known = get_argument_parser()._option_string_actions
    flags, targets, takes, room = [], [], None, 0.0
    for word in more:
        if word.startswith("-"):
            name, equals, _ = word.partition("=")
            if name.startswith("--") and not any(flag.startswith(name) for flag in known):
                raise InputError(f"unknown flag {name}. See --help and snakemake --help.")
            takes = known[name].nargs if name in known else "*"  # None: one value
            room = 0 if equals else {None: 1, "?": 1, "*": inf, "+": inf}.get(takes, takes)
        elif room < 1 or takes is not None and (word in TARGETS or "=" in flags[-1] and "=" not in word):
            targets.append(word)
            continue
        else:
            room -= 1
        flags.append(word)
    for target in targets:
        if target not in (*TARGETS, *STEPS) and "/" not in target:
            raise InputError(
                f"no target {target!r}. Use one of {', '.join(TARGETS)}, or the path of a file of the run."
            )
    return flags, targets


class Stop:
    """Ends snakemake and its steps on SIGINT or SIGTERM.

    Attributes:
        number: the signal, once one has arrived.
    """

    def __init__(self, snakemake: subprocess.Popen):
        self.number: int | None = None
        self._snakemake = snakemake
        signal.signal(signal.SIGALRM, self._report_wait)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, number: int, _frame: object) -> None:
        if self.number is None:
            signal.alarm(WAIT_SECONDS)
        self.number = number
        # Its children are the steps, which let their programs save; on SIGTERM snakemake itself would wait for them to
        # end.
        with suppress(psutil.NoSuchProcess):
            for step in psutil.Process(self._snakemake.pid).children():
                step.send_signal(signal.SIGTERM)
        self._snakemake.send_signal(signal.SIGINT)

    def _report_wait(self, _number: int, _frame: object) -> None:
        os.write(2, b"waiting until the running steps have saved\n")


def run_snakemake(command: list[str], folder: Path) -> int:
    """Run snakemake; returns its exit code, 128 + n if signal n ended it or us."""
    live = is_live()
    environment = os.environ | {PID_VARIABLE: str(os.getpid())} | ({LIVE_VARIABLE: "1"} if live else {})
    pipes = {"stderr": subprocess.PIPE} | ({"stdout": subprocess.PIPE} if live else {})
    # preexec_fn is safe here: this process has no other thread.
    snakemake = subprocess.Popen(
        command, **pipes, text=True, bufsize=1, errors="replace", env=environment, preexec_fn=die_with_parent
    )
    stop = Stop(snakemake)
    with shown(snakemake, folder) as view:
        for line in snakemake.stderr:
            if stop.number is None and shows(line):
                view.line(line)
        code = snakemake.wait()
    signal.alarm(0)
    if stop.number is not None and code != 0:
        print(stopped(folder), file=sys.stderr)
        return 128 + stop.number
    return code if code >= 0 else 128 - code


def stopped(folder: Path) -> str:
    """What a stopped run has saved, and how it is resumed."""
    plan = folder / PLAN
    if not plan.is_file():
        return "stopped before anything was started. The same command starts it."
    done, total = count(plan)
    saved = [f"{name} at step {step}" for name, step in unfinished(folder) if step]
    lost = [name for name, step in unfinished(folder) if not step]
    summary = f"stopped: {done} of {total} steps are done"
    summary += f"; saved: {', '.join(saved)}" if saved else ""
    summary += f"; without a checkpoint yet: {', '.join(lost)}" if lost else ""
    return f"{summary}. The same command resumes the run."


def unfinished(folder: Path) -> list[tuple[str, int]]:
    """Trainings of a run that were started but not finished, with the step of their newest checkpoint (0: none)."""
    found = []
    for note in sorted(folder.glob("seed*/models/*.settings.json")):
        if not read_json(note)["finished"]:
            name = note.name.removesuffix(".settings.json")
            steps = [int(path.name.rpartition("-")[2]) for path in (note.parent / name).glob("checkpoint-*[0-9]")]
            found.append((f"{name} ({note.parents[1].name})", max(steps, default=0)))
    return found


def show_plan(command: list[str]) -> int:
    """Print the jobs that snakemake would run and their number per rule; returns its exit code."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=die_with_parent)
    print(done.stdout, end="")
    print(*(line for line in done.stderr.splitlines(True) if shows(line)), sep="", end="", file=sys.stderr)
    return done.returncode


def shows(line: str) -> bool:
    """Whether a line is informative for a user."""
    return bool(line.strip()) and not line.startswith(PROFILE_NOTE)


def main() -> int:
    """Command line."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--benchmark", required=True, help="benchmark YAML")
    parser.add_argument("--cores", type=int, default=2, help="number of CPU cores to use at a time")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds of the preparation; the benchmark's own by default")
    parser.add_argument("--runs", default="runs", help="folder of the runs")
    args, more = parser.parse_known_args()
    benchmark = load_benchmark(args.benchmark)
    if args.seeds is not None:
        seeds_of({"seeds": args.seeds}, benchmark)
    flags, targets = split_targets(more)
    flags += status_flags(flags)
    runs = runs_folder({"runs": args.runs})
    command = snakemake_command(args.benchmark, args.cores, args.seeds, runs, flags, targets)
    if PLAN_FLAGS & set(flags):
        return show_plan(command)
    folder = Path(runs) / benchmark.name
    refuse_second(folder)
    code = run_snakemake(command, folder)
    report, seeds = folder / "report.json", args.seeds or [benchmark.seed]
    if code != 0:
        return code
    if "weights" in targets:
        for seed in seeds:
            weights = Run(benchmark, folder, seed).weights()
            print(f"{weights}\n{format_weights(read_json(weights))}")
    elif report.is_file():
        print_table(read_json(report), report.with_name("report.html"))
    for command in next_commands(benchmark, args.benchmark, args.cores, len(seeds), targets):
        print(f"Next: {command}")
    return code


if __name__ == "__main__":
    run(main)
