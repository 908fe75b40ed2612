"""Cost of padding and balance of ranks: padded batches in random order against samples distributed by work.

    python -m perf.dealing [--steps 200]

Lengths are simulated: each mix has the sizes of its tasks, images take 576 positions, and text lengths of a task are
lognormal around a median, truncated at 2048 positions. `padded` is the share of positions that are padding when 16 or 4
samples in random order make a micro-batch; `slowest` is the work of the most loaded rank of a step divided by the mean
work per rank without padding: before (padded), after, and after with text lengths known only to 10 %, as training
estimates them. Exit code 1 if a result exceeds its limit.
"""

import argparse
import random
import statistics

from transformers_patch.dealing import Dealing
from transformers_patch.step_loader import StepLayout
from visatb.cli import ArgumentParser, run

HIDDEN, LONGEST, PATCHES = 4096, 2048, 576
ERROR = 0.1  # sigma of the logarithm of a text's estimated length
# Of each task: records in thousands, images, median and spread (sigma of the logarithm) of its text in tokens.
MIXES = {
    "LLaVA-1.5": [
        (158, 1, 250, 0.5),  # instructions
        (83, 1, 150, 0.4),  # VQAv2, several questions to an image
        (72, 1, 200, 0.5),  # GQA
        (80, 1, 120, 0.4),  # OCRVQA
        (66, 1, 110, 0.4),  # A-OKVQA
        (22, 1, 65, 0.2),  # TextCaps
        (48, 1, 250, 0.5),  # RefCOCO
        (86, 1, 300, 0.4),  # Visual Genome
        (41, 0, 1100, 0.7),  # ShareGPT
    ],
    "Academic": [
        (98, 1, 240, 0.3),  # ShareGPT4V
        (41, 1, 80, 0.15),  # RefCOCO captions
        (83, 1, 65, 0.1),  # VQAv2
        (72, 1, 70, 0.1),  # GQA
        (18, 1, 80, 0.2),  # ChartQA
        (80, 1, 70, 0.15),  # OCRVQA
        (41, 1, 90, 0.15),  # RefCOCO boxes
        (41, 0, 1100, 0.7),  # ShareGPT
    ],
    "Chat": [
        (58, 1, 330, 0.35),  # conversation
        (23, 1, 170, 0.25),  # detail
        (77, 1, 260, 0.3),  # complex reasoning
        (41, 0, 1100, 0.7),  # ShareGPT
    ],
}
BARS = {(16, 8): 1.03, (4, 8): 1.10}  # samples of a micro-batch, ranks


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200, help="steps per layout")
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches per step on each rank")
    parser.add_argument("--seed", type=int, default=0, help="seed of lengths and order")
    return parser.parse_args(argv)


def lengths_of(mix: str, samples: int, draw: random.Random) -> tuple[list[int], list[int]]:
    """Positions of samples of a mix, in random order, and their estimates."""
    tasks = MIXES[mix]
    found, estimated = [], []
    for _, images, median, spread in draw.choices(tasks, [task[0] for task in tasks], k=samples):
        text = max(round(median * draw.lognormvariate(0, spread)), 1)
        found.append(min(PATCHES * images + text, LONGEST))
        estimated.append(min(PATCHES * images + round(text * draw.lognormvariate(0, ERROR)), LONGEST))
    return found, estimated


def measure(mix: str, per_device: int, ranks: int, args: argparse.Namespace) -> list[float]:
    """Share of padding, and the slowest rank before, after, and after with estimated lengths (means over the steps)."""
    draw = random.Random(args.seed)
    samples = per_device * ranks * args.accumulation * args.steps
    lengths, estimated = lengths_of(mix, samples, draw)
    layouts = [
        StepLayout(per_device, args.accumulation, ranks, dealing=Dealing(known, HIDDEN))
        for known in (lengths, estimated)
    ]
    rows = []
    for step in range(args.steps):
        balance = layouts[0].balance(range(samples), step)
        parts = layouts[1].parts(layouts[1].samples(range(samples), step))
        by_estimate = layouts[0].dealing.balance(parts, parts, ranks).slowest_work
        work = (_slowest_padded(layouts[0], step), balance.slowest_work, by_estimate)
        rows.append([1 - balance.positions / balance.padded_positions, *(each / balance.mean_work for each in work)])
    return [statistics.mean(column) for column in zip(*rows, strict=True)]


def _slowest_padded(layout: StepLayout, step: int) -> int:
    dealing, size = layout.dealing, layout.samples_per_step
    parts = [
        range(start, start + layout.per_device) for start in range(step * size, (step + 1) * size, layout.per_device)
    ]
    work = [len(part) * dealing.work(max(dealing.lengths[n] for n in part)) for part in parts]
    return max(sum(work[rank :: layout.world_size]) for rank in range(layout.world_size))


def main() -> int:
    """Print the table; returns 1 if a result exceeds its limit."""
    args = parse()
    heads = f"{'mix':12}{'per device':>11}{'ranks':>7}{'padded':>9}{'slowest before':>16}{'after':>8}{'estimated':>11}"
    print(f"{heads}{'bar':>7}")
    failed = False
    for mix in MIXES:
        for per_device in (4, 16):
            for ranks in (1, 8, 64):
                padding, before, after, estimated = measure(mix, per_device, ranks, args)
                bar = BARS.get((per_device, ranks))
                failed |= bar is not None and after > bar
                bar_text = "" if bar is None else f"{bar:.2f}"
                print(
                    f"{mix:12}{per_device:>11}{ranks:>7}{padding:>9.0%}{before:>16.2f}{after:>8.3f}"
                    f"{estimated:>11.3f}{bar_text:>7}"
                )
    return int(failed)


if __name__ == "__main__":
    run(main)
