"""Time and memory of a training step (forward and backward), against the plain path, in one run.

    python -m perf.training_step [--repeats 3] [--device cuda --dtype bfloat16 --hidden 4096 --layers 8 ...]

plain: transformers' model, eager attention, logits of every position.   ours: the same weights and batch through
transformers_patch (scaled_dot_product_attention, lm_head on supervised tokens only, EW with a weight vector).
Each variant runs in a process of its own, so that peak memory is its own; the two take turns.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

from visatb.cli import ArgumentParser, run

MIB = 2**20
VARIANTS = ("plain", "ours")


def add_shape(parser: argparse.ArgumentParser) -> None:
    """The flags of model and batch; the defaults are the shape that the README's figures were measured at."""
    parser.add_argument("--hidden", type=int, default=512, help="hidden size")
    parser.add_argument("--layers", type=int, default=4, help="decoder layers")
    parser.add_argument("--vocabulary", type=int, default=32000, help="vocabulary size")
    parser.add_argument("--batch", type=int, default=4, help="rows of a batch")
    parser.add_argument("--length", type=int, default=640, help="positions of a row")
    parser.add_argument("--supervised", type=int, default=170, help="supervised tokens of the batch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    add_shape(parser)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of one process, after one to warm up")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each variant")
    parser.add_argument("--variant", choices=VARIANTS, help="measure this one in this process and print JSON")
    return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step (median), peak memory in bytes beyond the loaded libraries, and the loss."""
    import torch
    import transformers

    import transformers_patch

    model_class = transformers.LlamaForCausalLM if args.variant == "plain" else transformers_patch.LlamaForCausalLM
    before = _peak(args.device)
    model = make_model(args, model_class)
    inputs = make_batch(args)
    if args.variant == "ours":
        inputs["weighter"] = transformers_patch.EqualWeighting(2).to(args.device)
        inputs["task_ids"] = torch.arange(args.batch, device=args.device) % 2
    seconds = []
    for _ in range(args.steps + 1):
        started = time.perf_counter()
        loss = model(**inputs).loss
        loss.backward()
        if args.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        model.zero_grad(set_to_none=True)
    return {"seconds": statistics.median(seconds[1:]), "bytes": _peak(args.device) - before, "loss": loss.item()}


def make_model(args: argparse.Namespace, model_class: type) -> Any:
    """A model of random weights in training mode, always the same."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=args.hidden,
        intermediate_size=int(args.hidden * 2.6875),
        num_hidden_layers=args.layers,
        num_attention_heads=max(args.hidden // 64, 1),
        vocab_size=args.vocabulary,
        max_position_embeddings=max(args.length, 2048),
        use_cache=False,
    )
    return model_class(config).to(device=args.device, dtype=getattr(torch, args.dtype)).train()


def make_batch(args: argparse.Namespace) -> dict:
    """Random ids with the last ones of each row supervised."""
    import torch

    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, args.vocabulary, (args.batch, args.length), generator=draw)
    labels = torch.full_like(ids, -100)
    per_row = args.supervised // args.batch
    for row in range(args.batch):
        answer = per_row + (args.supervised % args.batch if row == 0 else 0)
        labels[row, args.length - answer :] = ids[row, args.length - answer :]
    mask = torch.ones_like(ids)
    return {"input_ids": ids.to(args.device), "labels": labels.to(args.device), "attention_mask": mask.to(args.device)}


def _peak(device: str) -> int:
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """Measure both variants in turn and print them with their ratio."""
    args = parse()
    if args.variant:
        print(json.dumps(measure(args)))
        return 0
    runs: dict[str, list[dict]] = {variant: [] for variant in VARIANTS}
    for _ in range(args.repeats):
        for variant in VARIANTS:
            command = [sys.executable, "-m", "perf.training_step", *sys.argv[1:], "--variant", variant]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            runs[variant].append(json.loads(output.splitlines()[-1]))
    best = {v: {key: min(run[key] for run in runs[v]) for key in ("seconds", "bytes", "loss")} for v in VARIANTS}
    plain, ours = best["plain"], best["ours"]
    print(f"{'':8}{'seconds':>10}{'peak MiB':>10}{'loss':>12}")
    for variant, row in best.items():
        print(f"{variant:8}{row['seconds']:>10.3f}{row['bytes'] / MIB:>10.0f}{row['loss']:>12.7f}")
    time_ratio, memory_ratio = (ours[key] / plain[key] for key in ("seconds", "bytes"))
    print(f"ours takes {time_ratio:.2f} of the time, {memory_ratio:.2f} of the memory")
    return 0


if __name__ == "__main__":
    run(main)
