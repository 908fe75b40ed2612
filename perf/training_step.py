"""Time and memory of training steps (forward and backward), each compared with what it replaces, in one run.

    python -m perf.training_step [--cases step mixed head-32k head-152k] [--repeats 3]
    python -m perf.training_step --cases step --device cuda --dtype bfloat16 --hidden 4096 --layers 8

step: transformers' model, eager attention, logits of every position (plain), against the same weights and batch
through transformers_patch.   mixed: 16 rows of 115 to 640 positions, of which 41 % would be padding: plain, padded and
concatenated through transformers_patch.   head-32k, head-152k: lm_head and weighted loss alone, every row supervised:
differentiated by autograd, against gradients computed in the forward pass.
Each variant runs in a separate process, so that peak memory is its own; the variants of a case take turns, and medians
are compared. On a CPU, seconds are CPU time of the process, so that other work on the machine matters little.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from visatb.cli import ArgumentParser, run

MIB = 2**20
VARIANTS = {
    "step": ("plain", "ours"),
    "mixed": ("plain", "padded", "unpadded"),
    "head-32k": ("autograd", "ours"),
    "head-152k": ("autograd", "ours"),
}
MIXED = [115 + 35 * n for n in range(16)]  # positions of the rows of a mixed batch
HEADS = {"head-32k": (4000, 32_000), "head-152k": (1000, 152_000)}  # supervised tokens, vocabulary


def add_shape(parser: argparse.ArgumentParser) -> None:
    """The flags of model and batch; the defaults are the shape that the README's figures were measured at."""
    parser.add_argument("--hidden", type=int, default=512, help="hidden size")
    parser.add_argument("--layers", type=int, default=4, help="decoder layers")
    parser.add_argument("--vocabulary", type=int, default=32000, help="vocabulary size")
    parser.add_argument("--batch", type=int, default=4, help="rows per batch")
    parser.add_argument("--length", type=int, default=640, help="positions per row")
    parser.add_argument("--supervised", type=int, default=170, help="supervised tokens in the batch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    add_shape(parser)
    parser.add_argument("--cases", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="what to measure")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--steps", type=int, default=3, help="timed steps per process, after one warm-up step")
    parser.add_argument("--repeats", type=int, default=3, help="processes per variant")
    parser.add_argument("--variant", help="measure this variant of the single case in this process and print JSON")
    return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step (median), peak memory in bytes beyond the loaded libraries (and a head alone), and the loss."""
    import torch

    import transformers_patch  # noqa: F401 - before the peak is read

    torch.set_num_threads(args.threads)
    clock = time.perf_counter if args.device == "cuda" else time.process_time
    (case,) = args.cases
    before = _peak(args.device)
    step = make_head_step(args, case) if case in HEADS else make_model_step(args, case)
    if case in HEADS:
        before = _peak(args.device)
    seconds = []
    for _ in range(args.steps + 1):
        started = clock()
        loss = step()
        if args.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - started)
    return {"seconds": statistics.median(seconds[1:]), "bytes": _peak(args.device) - before, "loss": loss}


def make_model_step(args: argparse.Namespace, case: str) -> Callable[[], float]:
    """One forward and backward of the whole model; returns the loss."""
    import torch
    import transformers

    import transformers_patch
    from transformers_patch.unpadded import count_batch, without_padding

    is_plain = args.variant == "plain"
    if case == "mixed":
        args.batch, args.length = len(MIXED), max(MIXED)
    model = make_model(args, transformers.LlamaForCausalLM if is_plain else transformers_patch.LlamaForCausalLM)
    inputs = make_batch(args, MIXED if case == "mixed" else None)
    if not is_plain:
        inputs["task_ids"] = torch.arange(args.batch) % 2
        inputs = without_padding(inputs) if args.variant == "unpadded" else inputs
        inputs["token_count_K"] = count_batch(inputs, 2)  # still on the CPU
        inputs["weighter"] = transformers_patch.EqualWeighting(2).to(args.device)
    inputs = {name: _on_device(value, args.device) for name, value in inputs.items()}

    def step() -> float:
        loss = model(**inputs).loss
        loss.backward()
        model.zero_grad(set_to_none=True)
        return loss.item()

    return step


def _on_device(value: Any, device: str) -> Any:
    if isinstance(value, dict):
        return {name: _on_device(part, device) for name, part in value.items()}
    return value if isinstance(value, list) else value.to(device)


def make_head_step(args: argparse.Namespace, case: str) -> Callable[[], float]:
    """One forward and backward of lm_head and loss, with a weight per token; returns the loss."""
    import torch

    from transformers_patch.loss import LanguageModelHead, token_losses, weighted_losses, weighted_token_loss

    tokens, vocabulary = HEADS[case]
    torch.manual_seed(0)
    place = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    head = LanguageModelHead(args.hidden, vocabulary, bias=False, **place)
    hidden = torch.randn(tokens, args.hidden, **place).requires_grad_()
    labels = torch.randint(0, vocabulary, (tokens,), device=args.device)
    weights = torch.rand(tokens, device=args.device) / tokens

    def step() -> float:
        if args.variant == "ours":
            loss, _ = weighted_losses(head, hidden, labels, weights)
        else:
            loss = weighted_token_loss(token_losses(head, hidden, labels), weights, 1.0)
        loss.backward()
        head.weight.grad = hidden.grad = None
        return loss.item()

    return step


def make_model(args: argparse.Namespace, model_class: type) -> Any:
    """A model with random weights in training mode, always the same."""
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


def make_batch(args: argparse.Namespace, lengths: Sequence[int] | None = None) -> dict:
    """Random ids, the last ones of each row supervised; rows of other lengths than --length are padded on the right."""
    import torch

    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, args.vocabulary, (args.batch, args.length), generator=draw)
    labels = torch.full_like(ids, -100)
    per_row = args.supervised // args.batch
    for row in range(args.batch):
        answer = per_row + (args.supervised % args.batch if row == 0 else 0)
        end = args.length if lengths is None else lengths[row]
        labels[row, end - answer : end] = ids[row, end - answer : end]
    ends = torch.tensor([args.length] * args.batch if lengths is None else lengths)
    mask = (torch.arange(args.length) < ends[:, None]).long()
    batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    return {name: value.to(args.device) for name, value in batch.items()}


def _peak(device: str) -> int:
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def processor() -> str:
    """The name of this machine's CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def compare(args: argparse.Namespace, case: str) -> None:
    """Measure the variants of a case in turn and print their medians, with the ratios to those that are replaced."""
    variants = VARIANTS[case]
    runs: dict[str, list[dict]] = {variant: [] for variant in variants}
    for _ in range(args.repeats):
        for variant in variants:
            flags = [*sys.argv[1:], "--cases", case, "--variant", variant]
            command = [sys.executable, "-m", "perf.training_step", *flags]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            runs[variant].append(json.loads(output.splitlines()[-1]))
    medians = {
        variant: {key: statistics.median(found[key] for found in of_variant) for key in ("seconds", "bytes", "loss")}
        for variant, of_variant in runs.items()
    }
    print(f"\n{case:12}{'seconds':>10}{'peak MiB':>10}{'loss':>12}")
    for variant, row in medians.items():
        print(f"{variant:12}{row['seconds']:>10.3f}{row['bytes'] / MIB:>10.0f}{row['loss']:>12.7f}")
    *replaced, ours = medians
    for other in replaced:
        time_ratio, memory_ratio = (medians[ours][key] / medians[other][key] for key in ("seconds", "bytes"))
        print(f"{ours} takes {time_ratio:.2f} of the time and {memory_ratio:.2f} of the memory of {other}")


def main() -> int:
    """Measure the cases; with --variant, as the process of that variant."""
    args = parse()
    if args.variant:
        print(json.dumps(measure(args)))
        return 0
    print(f"{args.device}, {args.dtype}; {processor()}, {args.threads} thread(s); medians of {args.repeats} in turn")
    for case in args.cases:
        compare(args, case)
    return 0


if __name__ == "__main__":
    run(main)
