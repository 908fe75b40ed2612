"""Mutated inputs for the real commands: each is refused in one line or accepted rightly; nothing else may happen.

    python -m tests.stress.mutations --kind answers judge --count 500 --seed 7

prints for every command how many inputs were refused cleanly, how many accepted, how many ended in a traceback and how
many went wrong (accepted though they must be refused, a wrong result, refused though nothing of meaning changed, a
refusal that is not one line), and ends with 1 if there is any of the last two. The same seed gives the same inputs.

A kind is a module in this folder with

    COUNT: inputs for every command if --count is left out
    trials(count: int, seed: str, folder: Path) -> Iterator[Trial]

and an entry in KINDS.
"""

import argparse
import importlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.stress.trials import TRACEBACK, VERDICTS, WRONG, Trial

KINDS = {  # kind -> module
    "annotations": "tests.stress.annotations",
    "answers": "tests.stress.answers",
    "checkpoints": "tests.stress.checkpoints",
    "judge": "tests.stress.judge",
    "server": "tests.stress.server",
    "benchmark": "tests.stress.benchmarks",
    "scores": "tests.stress.scores",
}


def run_kind(kind: str, count: int | None, seed: str) -> list[Trial]:
    """The trials of a kind; `count` for every command, None for what the kind is used to."""
    module = importlib.import_module(KINDS[kind])
    with tempfile.TemporaryDirectory(prefix=f"mutations-{kind}-") as folder:
        return list(module.trials(module.COUNT if count is None else count, f"{seed} {kind}", Path(folder)))


def table(trials: Iterable[Trial]) -> str:
    """A line per command, and their sum."""
    counts: dict[str, Counter] = {}
    for trial in trials:
        counts.setdefault(trial.subject, Counter())[trial.verdict] += 1
    counts["all"] = sum(counts.values(), Counter())
    width = max(map(len, counts))
    lines = [" " * width + "".join(f"{name:>17}" for name in VERDICTS)]
    lines += [f"{name:<{width}}" + "".join(f"{found[v]:>17}" for v in VERDICTS) for name, found in counts.items()]
    return "\n".join(lines)


def failures(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that must not be."""
    return [trial for trial in trials if trial.verdict in (TRACEBACK, WRONG)]


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", choices=list(KINDS), default=list(KINDS), help="default: all")
    parser.add_argument("--count", type=int, help="mutated inputs for every command")
    parser.add_argument("--seed", default="0", help="default: %(default)s")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that went wrong")
    options = parser.parse_args(argv)
    wrong = []
    for kind in options.kind:
        trials = run_kind(kind, options.count, options.seed)
        print(f"{kind}\n{table(trials)}", flush=True)
        wrong += failures(trials)
    for n, trial in enumerate(wrong):
        print(f"\n{n}: {trial.subject}: {trial.mutation}: {trial.verdict}\n{trial.why.strip()}", file=sys.stderr)
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"{n}.input").write_bytes(trial.content)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
