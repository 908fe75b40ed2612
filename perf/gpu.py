"""All measurements on one GPU, in a few minutes and without a network: a table, and JSON.

    python -m perf.gpu [--json FILE]
    python -m perf.gpu --small          # the same code with tiny shapes on a CPU: checks that it runs

The decoder is shaped like Llama 7B, weights, gradients and AdamW in bf16, and a batch has 8 rows of 128 to 1409
positions. Training steps (forward, backward, fused AdamW) run at two depths, from which the whole depth is
extrapolated, and with as many layers as fit in memory: transformers' own path (plain: eager attention, logits of all
positions, padding), ours padded, ours without padding. Also: attention kernels, host-device synchronisations, memory,
generation, and bf16 against float32. MFU counts the work that the loss needs (no padding, no recomputation) over the
card's dense bf16 peak.

It needs transformers 4.31.0, but accepts versions of Python, torch and tokenizers that training refuses.
"""

import argparse
import contextlib
import inspect
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import write_json

Sections = dict[str, Callable[[], dict[str, Any]]]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="tiny shapes on a CPU")
    parser.add_argument("--json", type=Path, help="file for the JSON; by default it is printed after the table")
    parser.add_argument("--seconds", type=float, default=420, help="no section starts after this time")
    return parser.parse_args(argv)


def accept_other_versions() -> None:
    """Allow importing transformers 4.31.0 with packages that its version check refuses (call this first)."""
    name = "transformers.dependency_versions_check"
    stub = ModuleType(name)
    stub.dep_version_check = lambda *_: None  # type: ignore[attr-defined]
    sys.modules[name] = stub


def accept_other_torch() -> None:
    """Call torch's variable-length attention kernel by the name that it has in earlier versions."""
    from torch.nn.attention.varlen import varlen_attn as kernel

    from transformers_patch import unpadded

    known = inspect.signature(kernel).parameters
    if {"window_size", "enable_gqa"} <= set(known):
        return
    causal = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    unpadded.varlen_attn = lambda *tensors, **_: kernel(*tensors, **causal)  # every head has its own keys here


def sections(small: bool, device: str) -> Sections:
    """Name -> measurement, the most informative first."""
    from perf import gpu_cases as cases

    shape = cases.SMALL if small else cases.Shape()
    kinds = (cases.UNPADDED, cases.PADDED, cases.PLAIN)
    variants = [*kinds, *(kind + cases.CHECKPOINTING for kind in kinds), cases.UNPADDED + cases.COMPILED]
    found: Sections = {"matrix_product": lambda: cases.matrix_product(shape, device)}
    found |= {f"training {name}": lambda name=name: cases.training(shape, name, device) for name in variants}
    found |= {
        f"as_deep_as_fits {name}": lambda name=name: cases.deepest(shape, name, device)
        for name in (cases.UNPADDED + cases.CHECKPOINTING, cases.PADDED + cases.CHECKPOINTING, cases.UNPADDED)
    }
    for section in (cases.kernels, cases.waits, cases.generation, cases.precision):
        found[section.__name__] = lambda section=section: section(shape, device)
    return found


def measure(section: Callable[[], dict[str, Any]], ends: float) -> dict[str, Any]:
    """The result of a section, or why it was not measured: a failure must not lose the results of other sections."""
    started = time.monotonic()
    if started > ends:
        return {"not_measured": "out of time (--seconds)"}
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where the Trainer prints its summary
            found = section()
    except Exception as error:
        return {"not_measured": f"{type(error).__name__}: {error}"[:300]}
    return found | {"took_seconds": time.monotonic() - started}


def environment(device: str) -> dict[str, Any]:
    """GPU and package versions."""
    import accelerate
    import torch
    import transformers

    from perf.gpu_cases import GIB, card
    from perf.training_step import processor

    memory = torch.cuda.get_device_properties(0).total_memory / GIB if device == "cuda" else None
    versions = {module.__name__: module.__version__ for module in (torch, transformers, accelerate)}
    names = {"card": card(device), "processor": processor(), "python": platform.python_version()}
    return names | {"memory_gib": memory, "cuda": torch.version.cuda} | versions


def table(found: dict[str, dict[str, Any]]) -> str:
    """A table of the training steps, then one line per figure of the other sections."""
    title = f"{'step':36}{'layers':>7}{'seconds':>10}{'tokens/s':>11}{'MFU':>7}{'GiB':>8}"
    rows, others = [title], []
    for name, section in found.items():
        measured = section.get("measured", [])
        for row in [*measured, section["extrapolated"]] if "extrapolated" in section else measured:
            label = name + (" (extrapolated)" if row not in measured else "")
            mfu, memory = row["mfu"], row.get("peak_gib")
            rows.append(
                f"{label[:36]:36}{row['layers']:>7}{row['seconds']:>10.4f}{row['tokens_per_second']:>11.0f}"
                f"{'-' if mfu is None else format(mfu, '.3f'):>7}{'-' if memory is None else format(memory, '.1f'):>8}"
            )
        if not measured:
            others += [f"{name}: {key}: {json.dumps(value)}" for key, value in section.items()]
    return "\n".join([*rows, "", *others])


def main() -> int:
    """Measure every section; 1 if one was not measured."""
    args = parse()
    ends = time.monotonic() + args.seconds
    accept_other_versions()
    import torch

    if not args.small and not torch.cuda.is_available():
        raise InputError("no GPU: torch finds no CUDA device. Run it on a GPU, or pass --small to try the command.")
    device = "cpu" if args.small else "cuda"
    accept_other_torch()
    found = {"environment": environment(device)}
    for name, section in sections(args.small, device).items():
        found[name] = measure(section, ends)
        print(f"{name}: {found[name].get('not_measured', 'done')}", file=sys.stderr, flush=True)
    print(table(found))
    if args.json:
        write_json(args.json, found)
    else:
        print(json.dumps(found))
    return int(any("not_measured" in section for section in found.values()))


if __name__ == "__main__":
    run(main)
