"""The command line shared by the steps of the graph."""

import argparse
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from scripts_visatb.workflow.places import Run
from visatb.benchmark import load_benchmark
from visatb.cli import ArgumentParser

ROOT = Path(__file__).resolve().parents[2]


def step_parser(module_doc: str, split: bool = False) -> ArgumentParser:
    """Flags that name the benchmark, the run folder and the seed; `--help` shows the module's docstring.

    With `split`, also the flags of a step that handles one model's answers to the questions of a split.
    """
    description, _, example = module_doc.partition("\n\n")
    parser = ArgumentParser(description=description, epilog=example)
    parser.add_argument("--benchmark", required=True, help="benchmark YAML")
    parser.add_argument("--run", required=True, type=Path, help="run folder, runs/<benchmark name>")
    parser.add_argument("--seed", required=True, type=int, help="seed of the subsets and of the trainings")
    if split:
        parser.add_argument("--model", required=True, help="name of the model")
        parser.add_argument("--split", required=True, choices=("val", "test"), help="which questions")
    return parser


def run_of(args: argparse.Namespace) -> Run:
    """The run that the flags of `step_parser` name."""
    return Run(load_benchmark(args.benchmark), args.run, args.seed)


def find_script(name: str) -> Path:
    """A script named in a benchmark: relative to the working directory, else to this checkout."""
    return Path(name) if Path(name).is_file() else ROOT / name


def run_program(words: list[str], environment: Mapping[str, str] | None = None) -> int:
    """Run the program of a step to its end; returns its exit code, 128 + n if signal n ended it.

    A signal to stop reaches the program as well, which saves and ends; this function waits for that. Its handlers do
    nothing: ignoring the signals instead would be inherited by the program.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    code = subprocess.run(words, env=environment, check=False).returncode
    return code if code >= 0 else 128 - code
