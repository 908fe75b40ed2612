"""Cost of an optimizer step with each weighting strategy, compared with equal weights (EW).

    python -m perf.weighting_strategies [--rounds 7] [--tasks 8] [--device cuda --dtype bfloat16 --hidden 4096 ...]

step: forward, backward, and the trainer's calls of the strategy; the strategies take turns, so that a busy machine
slows all of them alike. The ratio is the median over the rounds of the strategy's time divided by EW's time in the same
round.

own: the strategy alone (random numbers, weights, weighted loss with gradient, observation), in milliseconds, and
what it adds to a step of EW: (own - EW's own) / step. The limit is 2%.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from perf.training_step import add_shape, make_batch, make_model
from visatb.cli import ArgumentParser, run

BAR = 0.02
OWN_REPEATS = 50


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    add_shape(parser)
    parser.add_argument("--tasks", type=int, default=8, help="number of tasks")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps per strategy, after one warm-up step")
    return parser.parse_args(argv)


def seconds_of(work: Callable[[], Any], device: str) -> float:
    """Wall-clock seconds of `work`, until the device has finished it."""
    import torch

    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def whole_step(model: Any, weighter: Any, inputs: dict) -> None:
    """An optimizer step without the optimizer: what the trainer does for a strategy."""
    weighter.begin_step()
    outputs = model(**inputs, weighter=weighter)
    outputs.loss.backward()
    count_K = outputs.task_token_count_K
    weighter.observe(outputs.task_loss_sum_K / count_K, count_K)
    model.zero_grad(set_to_none=True)


def own_step(weighter: Any, token_loss_T: Any, task_T: Any, count_K: Any, mean_K: Any) -> None:
    """The strategy's part of a step."""
    weighter.begin_step()
    weighter(token_loss_T, task_T, count_K).backward()
    weighter.observe(mean_K, count_K)


def main() -> int:
    """Measure all strategies in turn; exit code 1 if one adds more than the limit."""
    args = parse()
    import torch

    from transformers_patch import LlamaForCausalLM, build_weighter
    from transformers_patch.strategies import STRATEGIES

    model, inputs = make_model(args, LlamaForCausalLM), make_batch(args)
    inputs["task_ids"] = torch.arange(args.batch, device=args.device) % args.tasks
    supervised_B = (inputs["labels"][:, 1:] != -100).sum(dim=1)
    task_T = inputs["task_ids"].repeat_interleave(supervised_B)
    inputs["token_count_K"] = count_K = torch.bincount(task_T, minlength=args.tasks)
    token_loss_T = torch.rand(len(task_T), device=args.device, requires_grad=True)
    mean_K = torch.full((args.tasks,), 2.0, dtype=torch.float64, device=args.device)
    weighters = {name: build_weighter(name, args.tasks).to(args.device) for name in STRATEGIES}
    steps: dict[str, list[float]] = {name: [] for name in weighters}
    own: dict[str, list[float]] = {name: [] for name in weighters}
    for _ in range(args.rounds + 1):
        for name, weighter in weighters.items():
            steps[name].append(seconds_of(lambda w=weighter: whole_step(model, w, inputs), args.device))
    for _ in range(OWN_REPEATS + 1):
        for name, weighter in weighters.items():
            work = (weighter, token_loss_T, task_T, count_K, mean_K)
            own[name].append(seconds_of(lambda work=work: own_step(*work), args.device))
    step_EW, own_EW = statistics.median(steps["EW"][1:]), statistics.median(own["EW"][1:])
    print(f"{'':6}{'step s':>9}{'ratio':>8}{'own ms':>9}{'added':>9}")
    worst = 0.0
    for name in weighters:
        ratio = statistics.median(s / e for s, e in zip(steps[name][1:], steps["EW"][1:], strict=True))
        alone = statistics.median(own[name][1:])
        added = (alone - own_EW) / step_EW
        worst = max(worst, added)
        print(f"{name:6}{statistics.median(steps[name][1:]):>9.3f}{ratio:>8.3f}{1000 * alone:>9.3f}{added:>9.3%}")
    print(f"at most {worst:.3%} added to a step; the limit is {BAR:.0%}")
    return int(worst > BAR)


if __name__ == "__main__":
    run(main)
