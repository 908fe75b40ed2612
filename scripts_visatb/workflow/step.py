"""The command line that the steps of the graph share."""

import argparse
from pathlib import Path

from scripts_visatb.workflow.graph import Run
from visatb.benchmark import load_benchmark
from visatb.cli import ArgumentParser

ROOT = Path(__file__).resolve().parents[2]


def step_parser(module_doc: str, split: bool = False) -> ArgumentParser:
    """Flags that name the benchmark, the run folder and the seed; `--help` shows the module's docstring.

    With `split` also those of a step on one model's answers to the questions of a split.
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
