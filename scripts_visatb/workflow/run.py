"""Starts the run graph: what is missing is made, what is there is kept; at the end the table of results is printed.

    python -m scripts_visatb.workflow.run --benchmark scripts_visatb/benchmarks/demo.yaml --cores 2
    python -m scripts_visatb.workflow.run --benchmark scripts_visatb/benchmarks/demo.yaml --cores 2 -n   # only the plan

Targets come last: `weights`, `main` (the default: the report on VisATB, EW and single tasks), `baselines`, `ablations`,
`all`, `zero_shot`. The same as `snakemake -s scripts_visatb/workflow/Snakefile --configfile FILE --cores N`, with a
check of the benchmark file and the targets first, fewer words (of a plan the jobs alone), and an end for all that it
started when it is itself killed. Flags it does not know go to snakemake.
"""

import ctypes
import platform
import re
import signal
import subprocess
import sys
from math import inf
from pathlib import Path

from eval.overall_table import format_weights
from scripts_visatb.workflow.graph import TARGETS, Run, seeds_of
from scripts_visatb.workflow.report import print_table
from scripts_visatb.workflow.step import ROOT
from visatb.benchmark import load_benchmark
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import read_json

_PR_SET_PDEATHSIG = 1
STEPS = ("prepare", "report", "weigh_seeds")  # those that a rule's name tells, and no file is needed to ask for
PLAN_FLAGS = {"-n", "-np", "-pn", "--dry-run", "--dryrun"}
# Lines of Snakemake's that tell a user nothing: the steps themselves tell when they start and end.
NOISE = (
    "Using workflow specific profile",
    "Assuming unrestricted shared filesystem",
    "Building DAG of jobs",
    "Using shell:",
    "Select jobs to execute",
    "Execute ",
    "Elapsed time",
    "Complete log(s)",
    "MissingRuleException:",
    "RuleException:",
    "WorkflowError in file",
    '  File "',
    "CalledProcessError in file",
    "Command 'set -euo pipefail;",
    "Exiting because a job execution failed",
)


def die_with_parent() -> None:
    """Ask the kernel (Linux) to kill this process when its parent dies; elsewhere do nothing.

    Snakemake ends with the process that a user sees, and its steps notice that and end too (see job.py): a killed run
    leaves nobody behind in its folders.
    """
    if platform.system() == "Linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def snakemake_command(
    benchmark: str, cores: int, seeds: list[int] | None, runs: str, flags: list[str], targets: list[str]
) -> list[str]:
    """The snakemake command that makes a benchmark's report, or other targets."""
    settings = [f"runs={runs}"] + ([f"seeds={seeds}".replace(" ", "")] if seeds is not None else [])
    return [
        *(sys.executable, "-m", "snakemake"),
        *("--configfile", benchmark),
        *("--config", *settings),
        *("--quiet", "reason", "host", *(() if PLAN_FLAGS & set(flags) else ("rules", "progress"))),
        *("--cores", str(cores)),
        *("-s", str(ROOT / "scripts_visatb" / "workflow" / "Snakefile")),
        *flags,
        *(("--", *targets) if targets else ()),  # else a flag that takes a list would swallow them
    ]


def split_targets(more: list[str]) -> tuple[list[str], list[str]]:
    """Words for snakemake as its flags with their values, and targets.

    Of a flag that takes a list the first value is its own, and what follows `name=value` without being such is none.

    Raises:
        InputError: naming a target or flag that there is not.
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
                f"no target {target!r}. There are {', '.join(TARGETS)}, and files of the run by their path. Mend it."
            )
    return flags, targets


def run_snakemake(command: list[str]) -> int:
    """Run snakemake without its noise; returns its exit code, 128 + n if signal n ended it."""
    # preexec_fn is safe here: this process has no other thread.
    snakemake = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, bufsize=1, preexec_fn=die_with_parent)
    # A key press reaches the whole process group: snakemake ends its jobs, and we wait for that. Other ends are passed
    # on by the kernel (die_with_parent) or here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _frame: snakemake.send_signal(number))
    for line in snakemake.stderr:
        print(without_noise(line), end="", file=sys.stderr, flush=True)
    code = snakemake.wait()
    return code if code >= 0 else 128 - code


def show_plan(command: list[str]) -> int:
    """Print the jobs that snakemake would run, how many there are of each rule; returns its exit code."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=die_with_parent)
    print(without_noise(done.stderr), end="", file=sys.stderr)
    print(plan_text(done.stdout), end="")
    return done.returncode


def plan_text(shown: str) -> str:
    """What `snakemake -n` shows, as the messages of its jobs and their number by rule; without jobs all of it."""
    jobs = re.findall(r"^Job \d+: (.+)", shown, re.MULTILINE)
    if not jobs:
        return without_noise(shown)
    table = shown.partition("Job stats:")[2].partition("\ntotal ")[0]
    counts = re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)
    kinds = ", ".join(f"{count} {rule}" for rule, count in counts if rule not in TARGETS)
    return "\n".join([*jobs, f"{len(jobs)} jobs: {kinds}\n"])


def without_noise(text: str) -> str:
    """The lines that tell a user something."""
    return "".join(line for line in text.splitlines(True) if line.strip() and not line.startswith(NOISE))


def main() -> int:
    """Command line."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--benchmark", required=True, help="benchmark YAML")
    parser.add_argument("--cores", type=int, default=2, help="how many processor cores to use at a time")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds of the preparation; the benchmark's own by default")
    parser.add_argument("--runs", default="runs", help="folder of the runs")
    args, more = parser.parse_known_args()
    benchmark = load_benchmark(args.benchmark)
    if args.seeds is not None:
        seeds_of({"seeds": args.seeds}, benchmark)
    flags, targets = split_targets(more)
    command = snakemake_command(args.benchmark, args.cores, args.seeds, args.runs, flags, targets)
    if PLAN_FLAGS & set(flags):
        return show_plan(command)
    code = run_snakemake(command)
    folder = Path(args.runs) / benchmark.name
    report, seeds = folder / "report.json", args.seeds or [benchmark.seed]
    if code != 0:
        return code
    if "weights" in targets:
        for seed in seeds:
            weights = Run(benchmark, folder, seed).weights()
            print(f"{weights}\n{format_weights(read_json(weights))}")
    elif report.is_file():
        print_table(read_json(report), report.with_name("report.html"))
    return code


if __name__ == "__main__":
    run(main)
