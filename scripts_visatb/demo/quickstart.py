"""Runs the demo's graph, as quickstart.sh does, and says at the end what one run of it can show.

python -m scripts_visatb.demo.quickstart --cores 2
"""

import sys

from scripts_visatb.workflow.run import PLAN_FLAGS
from scripts_visatb.workflow.run import main as run_graph
from visatb.cli import run

BENCHMARK = "scripts_visatb/benchmarks/demo.yaml"
NOTE = f"""
What this run shows: every step of the method, from data to report, with the weights of this seed.
What it cannot show: whether other seeds and processors repeat the weights, and whether VisATB beats equal weights.
Several seeds on two kernels, with errors: visatb study --benchmark {BENCHMARK}"""


def main() -> int:
    """Run the graph with the flags of the command line; returns its exit code."""
    flags = sys.argv[1:]
    sys.argv[1:] = ["--benchmark", BENCHMARK, *flags]
    code = run_graph()
    if code == 0 and not PLAN_FLAGS & set(flags):
        print(NOTE)
    return code


if __name__ == "__main__":
    run(main)
