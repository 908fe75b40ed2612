"""What padding would cost a benchmark's final run, and how evenly its ranks are loaded: a line of `visatb show`.

Steps are drawn from the training files and distributed as in training; positions are estimated from
characters. Nothing is tokenised and no image is opened.
"""

import json
import random
import statistics
from pathlib import Path

import numpy as np

from transformers_patch.dealing import Dealing
from visatb.benchmark import Benchmark
from visatb.errors import InputError
from visatb.record_index import open_index

STEPS = 50
CHARACTERS_OF_A_TOKEN = 4  # of LLaMA's tokenizer, in English
CLIP_PATCHES = 576  # of LLaVA-1.5's tower
_HIDDEN = 4096  # of a 7B model: for the cost of attention relative to the matrices


def describe_padding(benchmark: Benchmark, per_device: int, accumulation: int, ranks: int) -> str:
    """Share of padding and balance of ranks: padded and in random order, against unpadded and distributed by work."""
    try:
        lengths = estimated_lengths(benchmark)
    except InputError as error:
        return f"padding: unknown, {error}"
    parts = accumulation * ranks
    size = min(per_device * parts, len(lengths))
    dealing, draw = Dealing(lengths, _HIDDEN), random.Random(benchmark.seed)
    padded, before, after = [], [], []
    for _ in range(STEPS):
        samples = draw.sample(range(len(lengths)), size)
        in_order = [samples[n : n + per_device] for n in range(0, size, per_device)]
        longest = [max(lengths[n] for n in part) for part in in_order]
        balance = dealing.balance(in_order, dealing.deal(samples, parts), ranks)
        padded.append(1 - balance.positions / balance.padded_positions)
        work = [dealing.work(length) * len(part) for length, part in zip(longest, in_order, strict=True)]
        before.append(max(sum(work[rank::ranks]) for rank in range(ranks)) / balance.mean_work)
        after.append(balance.slowest_work / balance.mean_work)
    share, slow, even = map(statistics.mean, (padded, before, after))
    line = f"padding: {share:.0%} of positions if micro-batches of {per_device} were padded, none as they are trained"
    if ranks > 1:
        line += f"; slowest rank {slow:.2f} x the mean work, {even:.2f} x as dealt"
    return f"{line} (estimated from {len(lengths):,} records)"


def estimated_lengths(benchmark: Benchmark) -> list[int]:
    """Positions of the records of all tasks' training files.

    Raises:
        InputError: a file that does not exist or that training would refuse.
    """
    recipe = benchmark.training.get("environment") or {}
    patches = _patches(recipe.get("VISION_TOWER"))
    longest = int(float(recipe.get("MODEL_MAX_LENGTH", 2048)))
    found = []
    for file in dict.fromkeys(task.files["train"] for task in benchmark.tasks):
        columns = open_index(Path(benchmark.data_folder) / file).columns
        tokens_N = columns.characters_N // CHARACTERS_OF_A_TOKEN + patches * columns.images_N
        found += np.clip(tokens_N, 1, longest).tolist()
    return found


def _patches(tower: str | None) -> int:
    """Positions of an image: from a local tower's config.json, else those of CLIP ViT-L/14-336."""
    try:
        config = json.loads((Path(tower or "") / "config.json").read_text())
        config = config.get("vision_config", config)
        return (config["image_size"] // config["patch_size"]) ** 2
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return CLIP_PATCHES
