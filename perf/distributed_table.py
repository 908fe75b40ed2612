"""How far the training of each strategy drifts when its steps are split over processes and micro-batches.

    python -m perf.distributed_table [--strategies EW DWA] [--layouts "2 x 4" "ZeRO-3 x 2"] [--steps 20]

For each strategy and layout: the largest relative difference of the loss trajectory and of the final parameters
against one process with a micro-batch of 8. The whole of llava/train/train.py runs, in float32 on CPU ranks over gloo,
with the hard data of perf/distributed_data.py. Exit code 1 if the tolerance is exceeded, as it is with
`--loss_normalization batch`, whose result depends on the split by definition.

The optimizer is plain SGD: Adam divides a gradient by its own magnitude, which turns a gradient that is only rounding
noise into a full step (--optim adamw_torch shows it). A parameter's difference is relative to
the largest value of its tensor.
"""

import argparse
import inspect
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from perf.distributed_data import (
    ROOT,
    SAMPLES_PER_STEP,
    SEED,
    spare_compiling,
    start_processes,
    training_flags,
    write_deepspeed,
    write_material,
)
from visatb.cli import ArgumentParser, run
from visatb.files import read_json

BAR = 2e-5
WEIGHTS = ("0.5", "3.0", "1.4", "0.8")  # of the four tasks
WEIGHTED = "EW + weights"
# With these, every strategy becomes active within 20 steps, with a strong effect.
CONSTANTS = {"window": 3, "temperature": 0.5, "lr": 0.1}
LAYOUT_SECONDS = 900


@dataclass(frozen=True)
class Layout:
    """How the eight samples of a step are split: processes x samples x accumulated micro-batches, padded or not."""

    processes: int
    per_device: int
    accumulation: int = 1
    zero: int = 0
    padded: bool = False

    def __post_init__(self):
        assert self.processes * self.per_device * self.accumulation == SAMPLES_PER_STEP


LAYOUTS = {
    "1 x 8": Layout(1, 8),
    "1 x 8 padded": Layout(1, 8, padded=True),
    "2 x 4": Layout(2, 4),
    "1 x 4 x acc 2": Layout(1, 4, 2),
    "2 x 2 x acc 2": Layout(2, 2, 2),
    "4 x 2": Layout(4, 2),
    "ZeRO-1 x 2": Layout(2, 4, zero=1),
    "ZeRO-2 x 2": Layout(2, 4, zero=2),
    "ZeRO-3 x 2": Layout(2, 4, zero=3),
}
FIRST = next(iter(LAYOUTS))


@dataclass(frozen=True)
class Drift:
    """Largest relative differences between two runs: of a step's loss, and of a final parameter."""

    loss: float
    parameters: float


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--strategies", nargs="+", help=f"weight methods, and {WEIGHTED!r}; all by default")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), help=f"beside {FIRST!r}")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps per training")
    parser.add_argument("--optim", default="sgd", help="transformers' name of the optimizer")
    parser.add_argument("--learning_rate", type=float, default=0.1, help="learning rate, constant")
    parser.add_argument("--loss_normalization", choices=("step", "batch"), default="step", help="see docs/training.md")
    parser.add_argument("--folder", type=Path, help="empty folder for data, models and logs; temporary by default")
    parser.add_argument("--layout", choices=LAYOUTS, help="run as one process of this layout and train all strategies")
    args = parser.parse_args(argv)
    from transformers_patch.strategies import STRATEGIES

    known = [*STRATEGIES, WEIGHTED]
    args.strategies = args.strategies or known
    for name in args.strategies:
        if name not in known:
            parser.error(f"--strategies must be among {', '.join(known)}, got {name}")
    args.layouts = list(dict.fromkeys([FIRST, *args.layouts]))
    if len(args.layouts) == 1:
        parser.error(f"--layouts must name one besides {FIRST!r}")
    return args


def main() -> int:
    """Train every strategy in every layout, print the table, and compare it with the tolerance."""
    args = parse()
    if args.layout:
        return train_strategies(args)
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
        return make_table(args)
    with tempfile.TemporaryDirectory() as folder:
        args.folder = Path(folder)
        return make_table(args)


def make_table(args: argparse.Namespace) -> int:
    """Run the layouts one after the other in `args.folder` and print the table; returns the exit code."""
    write_material(args.folder, args.steps, SEED)
    for stage in (1, 2, 3):
        write_deepspeed(ROOT / "scripts_visatb" / f"zero{stage}.json", args.folder / f"zero{stage}.json")
    started = time.monotonic()
    for name in args.layouts:
        clock = time.monotonic()
        if not launch(args, name):
            return 1
        print(f"{name}: {time.monotonic() - clock:.0f} s", file=sys.stderr, flush=True)
    drifts = {
        strategy: {name: drift(args.folder, strategy, name) for name in args.layouts if name != FIRST}
        for strategy in args.strategies
    }
    print_table(args, drifts)
    found = [value for row in drifts.values() for d in row.values() for value in (d.loss, d.parameters)]
    seconds = time.monotonic() - started
    print(f"largest {max(found):.1e}, bar {BAR:.0e}; {args.steps} steps of {args.optim}, {seconds:.0f} s")
    return int(not all(value <= BAR for value in found))  # NaN exceeds the tolerance


def launch(args: argparse.Namespace, name: str) -> bool:
    """Start the processes of a layout and wait for them; prints the end of their output if they fail."""
    words = ["--layout", name, "--folder", str(args.folder.resolve())]
    words += ["--steps", str(args.steps), "--optim", args.optim, "--learning_rate", repr(args.learning_rate)]
    words += ["--loss_normalization", args.loss_normalization, "--strategies", *args.strategies]
    log = args.folder / f"{name.replace(' ', '')}.log"
    with open(log, "wb") as output:
        process = start_processes(LAYOUTS[name].processes, "perf.distributed_table", words, output)
        try:
            code = process.wait(LAYOUT_SECONDS)
        except BaseException:  # ranks that wait for each other, or an interrupt: no process may stay behind
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if code:
        print(f"layout {name} ended with {code}; the end of its output:", file=sys.stderr)
        print("\n".join(log.read_text(errors="replace").splitlines()[-80:]), file=sys.stderr)
    return code == 0


def train_strategies(args: argparse.Namespace) -> int:
    """Run one training after the other in one process of a layout."""
    from accelerate.state import AcceleratorState

    from llava.train.run_folder import leave_together
    from llava.train.train import train

    layout = LAYOUTS[args.layout]
    if layout.zero:
        spare_compiling()
    for strategy in args.strategies:
        AcceleratorState._reset_state()  # accelerate keeps the first training's DeepSpeed settings otherwise
        code = train(flags_of(args, layout, strategy))
        if code:
            return code
    leave_together()
    return 0


def flags_of(args: argparse.Namespace, layout: Layout, strategy: str) -> list[str]:
    """The command line of a training."""
    from transformers_patch.strategies import STRATEGIES

    flags = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": layout.per_device,
        "gradient_accumulation_steps": layout.accumulation,
        "optim": args.optim,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": "constant",
        "loss_normalization": args.loss_normalization,
        "save_strategy": "no",
        "padded_batches": layout.padded,
    }
    if layout.zero:
        flags["deepspeed"] = args.folder / f"zero{layout.zero}.json"
    words = training_flags(args.folder, output_of(args.folder, strategy, args.layout), **flags)
    if strategy == WEIGHTED:
        return [*words, "--weight_method", "EW", "--visatb_weights", *WEIGHTS]
    accepted = inspect.signature(STRATEGIES[strategy]).parameters
    constants = [w for name, value in CONSTANTS.items() if name in accepted for w in (f"--weight_{name}", str(value))]
    return [*words, "--weight_method", strategy, *constants]


def output_of(folder: Path, strategy: str, layout: str) -> Path:
    """Where a training's model and log go."""
    return folder / "models" / layout.replace(" ", "") / strategy.replace(" ", "")


def drift(folder: Path, strategy: str, layout: str) -> Drift:
    """Difference between a strategy's training in a layout and its training in one process."""
    import torch

    from llava.model.weights import read_state_dict

    one, several = (output_of(folder, strategy, name) for name in (FIRST, layout))
    losses = [[line["loss"] for line in read_log(run_folder)] for run_folder in (one, several)]
    of_loss = max(abs(a - b) / abs(a) for a, b in zip(*losses, strict=True))
    a, b = read_state_dict(one), read_state_dict(several)
    assert a.keys() == b.keys(), f"{several}: has other tensors than {one}"
    of_tensors = [((a[key] - b[key]).abs().max() / a[key].abs().max()) for key in a if bool(a[key].any())]
    return Drift(of_loss, float(torch.stack(of_tensors).max()))


def read_log(run_folder: Path) -> list[dict]:
    """The lines of a training's log, one per step."""
    return [json.loads(line) for line in (run_folder / "train_log.jsonl").read_text().splitlines()]


def print_table(args: argparse.Namespace, drifts: dict[str, dict[str, Drift]]) -> None:
    """Print a row per strategy: its weights at the end, and per layout the differences of loss | parameters."""
    from rich.console import Console
    from rich.table import Table

    names = [name for name in args.layouts if name != FIRST]
    table = Table(title=f"largest relative difference from {FIRST}: loss trajectory | final parameters")
    for column in ("strategy", "last weights", *names):
        table.add_column(column, no_wrap=True)
    for strategy, row in drifts.items():
        weights = read_json(output_of(args.folder, strategy, FIRST) / "visatb_run.json")["weights"]
        cells = [f"{'[red]' if max(d.loss, d.parameters) > BAR else ''}{d.loss:.0e} | {d.parameters:.0e}" for d in
                 row.values()]  # fmt: skip
        table.add_row(strategy, f"{min(weights):.2f} to {max(weights):.2f}", *cells)
    Console(width=None if sys.stdout.isatty() else 40 + 18 * len(names)).print(table)


if __name__ == "__main__":
    run(main)
