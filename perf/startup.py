"""CPU seconds that each command takes to print its help, and that imports take.

    python -m perf.startup
    python -m perf.startup train check --repeats 5

Each figure is the least of several runs in separate processes, user and system time together.
"""

import resource
import subprocess
import sys

from eval.overall_table import lay_out
from visatb.__main__ import COMMANDS
from visatb.cli import ArgumentParser, run

IMPORTS = ("visatb", "transformers_patch", "llava.train.train", "llava.train.training", "transformers", "torch")


def cpu_seconds(command: list[str], repeats: int) -> float:
    """The least CPU time of a Python process.

    Args:
        command: what follows `python`.
        repeats: processes that are started.
    """
    taken = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def main() -> int:
    """Command line."""
    description, _, example = __doc__.partition("\n\n")
    parser = ArgumentParser(description=description, epilog=example)
    parser.add_argument("commands", nargs="*", help="names of `visatb`; all of them and the imports by default")
    parser.add_argument("--repeats", type=int, default=3, help="number of processes, of which the fastest counts")
    args = parser.parse_args()
    names = args.commands or sorted({name for commands in COMMANDS.values() for name in commands})
    rows = [["started", "CPU s"]]
    rows += [[f"visatb {name} --help", cpu_seconds(["-m", "visatb", name, "--help"], args.repeats)] for name in names]
    for module in () if args.commands else IMPORTS:
        rows.append([f"import {module}", cpu_seconds(["-c", f"import {module}"], args.repeats)])
    print(lay_out([rows[0], *([name, f"{seconds:.2f}"] for name, seconds in rows[1:])]))
    return 0


if __name__ == "__main__":
    run(main)
