"""Starts the run graph: what is missing is made, what is there is kept.

    python -m scripts_visatb.workflow.run --benchmark scripts_visatb/benchmarks/demo.yaml --cores 2
    python -m scripts_visatb.workflow.run --benchmark scripts_visatb/benchmarks/demo.yaml --cores 2 -n   # only the plan

The same as `snakemake -s scripts_visatb/workflow/Snakefile --configfile FILE --cores N`, with checks of the benchmark
file first and an end for all that it started when it is itself killed. Flags it does not know go to snakemake.
"""

import ctypes
import os
import platform
import signal
import sys

from scripts_visatb.workflow.graph import seeds_of
from scripts_visatb.workflow.step import ROOT
from visatb.benchmark import load_benchmark
from visatb.cli import ArgumentParser, run

_PR_SET_PDEATHSIG = 1
# Flags with which Snakemake's own account of the jobs is wanted.
SHOWING = {"-n", "--dry-run", "--dryrun", "-q", "--quiet", "--verbose", "-p", "--printshellcmds"}


def die_with_parent() -> None:
    """Ask the kernel (Linux) to kill this process when its parent dies; elsewhere do nothing.

    The steps notice and end too (see job.py), so that killing the one process that a user sees leaves nothing behind.
    """
    if platform.system() == "Linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def snakemake_command(benchmark: str, cores: int, seeds: list[int] | None, runs: str, more: list[str]) -> list[str]:
    """The snakemake command that makes a benchmark's report."""
    settings = [f"runs={runs}"] + ([f"seeds={seeds}".replace(" ", "")] if seeds is not None else [])
    return [
        *(sys.executable, "-m", "snakemake"),
        *("-s", str(ROOT / "scripts_visatb" / "workflow" / "Snakefile")),
        *("--configfile", benchmark),
        *("--cores", str(cores)),
        *("--config", *settings),
        # The steps tell when they start and end; what each reads and writes is told in a plan only.
        *(() if SHOWING & set(more) else ("--quiet", "all")),
        *more,
    ]


def main() -> None:
    """Command line; replaces this process by snakemake."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--benchmark", required=True, help="benchmark YAML")
    parser.add_argument("--cores", type=int, default=2, help="how many processor cores to use at a time")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds of the preparation; the benchmark's own by default")
    parser.add_argument("--runs", default="runs", help="folder of the runs")
    args, more = parser.parse_known_args()
    benchmark = load_benchmark(args.benchmark)
    if args.seeds is not None:
        seeds_of({"seeds": args.seeds}, benchmark)
    die_with_parent()
    command = snakemake_command(args.benchmark, args.cores, args.seeds, args.runs, more)
    os.execv(command[0], command)


if __name__ == "__main__":
    run(main)
