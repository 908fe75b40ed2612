"""The old address of scripts_visatb.workflow.cost, which estimates what a benchmark's run costs."""

from scripts_visatb.workflow.cost import costs, describe, find_benchmark, formula, guidance, main, task_sizes
from visatb.cli import run

__all__ = ["costs", "describe", "find_benchmark", "formula", "guidance", "main", "task_sizes"]

if __name__ == "__main__":
    run(main)
