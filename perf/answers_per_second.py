"""Answers per second at several batch sizes, with the loop that all commands use, and the memory of a prefill.

    python -m perf.answers_per_second [--model-path MODEL] [--questions 24] [--batch-size 1 8] [--device cuda]
    python -m perf.answers_per_second --baseline-repo ../other-checkout --batch-size 8

Without --model-path the model is a Llama with random weights (hidden 512, 4 layers, vocabulary 32,000) and the tests'
tiny vision tower, which samples its tokens; one id in --end_every ends an answer, so that answers have mixed lengths.
Each batch size answers the same questions after one warm-up batch; reading the images is part of the time, loading the
model is not. On a CPU, seconds are CPU time of the process, so that other work on the machine matters little. Slot use
is the share of batch rows x steps that would produce a token of an answer if finished rows stayed in their batch.
With --baseline-repo the same file measures another checkout's engine, in processes that take turns; medians are
compared, and answers must be equal.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from visatb.cli import ArgumentParser, run

_ROOT = Path(__file__).resolve().parents[1]
_TASK = "Look at the whole picture first, then at its corners, and think of every colour that you know. "


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model-path", help="folder of a LLaVA checkpoint; by default a model with random weights")
    parser.add_argument("--questions", type=int, default=24, help="number of questions at each batch size")
    parser.add_argument("--prompt", type=int, default=5, help="sentences per prompt, about 90 positions each")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8], help="batch sizes")
    parser.add_argument("--max_new_tokens", type=int, default=48, help="longest answer")
    parser.add_argument("--end_every", type=int, default=32, help="random weights: one id in so many ends an answer")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; by default cuda if available")
    parser.add_argument("--dtype", choices=["auto", "bf16", "fp16", "fp32"], default="auto", help="of the weights")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=3, help="processes per checkout")
    parser.add_argument("--baseline-repo", help="another checkout of this repository, to compare with")
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # measure in this process, with the files there
    return parser.parse_args(argv)


def make_model(folder: Path) -> Path:
    """Write a LLaVA checkpoint with random weights, large enough for the model's speed to matter."""
    import torch
    from safetensors.torch import save_file

    from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM

    path = _tests_module("tiny").make_tiny_checkpoint(folder / "tiny") / "llava-tiny"
    config = json.loads((path / "config.json").read_text())
    sizes = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4, "num_attention_heads": 8}
    config |= sizes | {"num_key_value_heads": 8, "vocab_size": 32_000, "max_position_embeddings": 2048}
    (path / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    state = LlavaLlamaForCausalLM(LlavaConfig.from_dict(config)).state_dict()
    tensors = {name: tensor.contiguous() for name, tensor in state.items() if "vision_tower" not in name}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def make_questions(folder: Path, count: int, sentences: int) -> list[Any]:
    """Questions about drawn images."""
    from llava.generate.questions import Question

    data = _tests_module("zero_shot_data")
    questions = []
    for n in range(count):
        image = folder / f"{n}.png"
        image.write_bytes(data.picture(n))
        text = _TASK * sentences + f"What colour is square number {n}?"
        questions.append(Question(n, f"question {n}", text, (image,)))
    return questions


def load(args: argparse.Namespace, **changes: Any) -> Any:
    """The engine. With random weights the text is the ids, most of which the tiny tokenizer lacks."""
    from llava.generate.llava_engine import LlavaEngine
    from llava.generate.llava_model import default_device, dtype_of
    from llava.generate.questions import Settings

    path = args.model_path or str(Path(args.folder) / "tiny" / "llava-tiny")
    device = default_device(args.device)
    settings = Settings(**{"max_new_tokens": args.max_new_tokens, "temperature": float(not args.model_path)} | changes)
    engine = LlavaEngine.load(path, None, settings, device, dtype_of(args.dtype, device, path))
    if not args.model_path:
        engine.eos_ids = list(range(2, int(engine.model.config.vocab_size), args.end_every))
        engine.tokenizer.decode = lambda ids, **_: " ".join(map(str, ids))
    return engine


def answers_to(engine: Any, questions: list[Any], batch_size: int) -> list[list[str]]:
    """The answers, batch by batch."""
    from llava.generate.loop import answer_all

    batches = list(answer_all(engine, questions, (), batch_size))
    failed = [answer for batch in batches for answer in batch if answer.text is None]
    if failed:
        raise RuntimeError(f"{len(failed)} questions failed; the first: {failed[0]}")
    return [[answer.text for answer in batch] for batch in batches]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds, slot use and answers at each batch size, and the peak memory of a prefill of the last one."""
    import torch

    torch.set_num_threads(args.threads)
    engine = load(args)
    clock = time.process_time if engine.device.type == "cpu" else time.perf_counter
    questions = make_questions(Path(args.folder), args.questions, args.prompt)
    found: dict[str, Any] = {"sizes": {}} | prefill(engine, questions[: args.batch_size[-1]])
    for size in args.batch_size:
        answers_to(engine, questions[:size], size)
        started = clock()
        batches = answers_to(engine, questions, size)
        seconds = clock() - started
        lengths = [[len(text.split()) for text in batch] for batch in batches]
        use = sum(map(sum, lengths)) / max(1, sum(max(batch) * len(batch) for batch in lengths))
        found["sizes"][size] = {"seconds": seconds, "use": use, "answers": sorted(map(tuple, batches))}
    return found


def prefill(engine: Any, questions: list[Any]) -> dict[str, Any]:
    """Rows and positions of a batch's prompts, and the peak memory of their first token beyond the model."""
    once = engine.asking(dataclasses.replace(engine.settings, max_new_tokens=1))
    answers_to(once, questions[:1], 1)
    before = _memory(engine.device.type, reset=True)
    answers_to(once, questions, len(questions))
    positions = [len(questions), max(once.prompt(question).lengths[0] for question in questions)]
    return {"positions": positions, "bytes": _memory(engine.device.type) - before}


def _memory(device: str, reset: bool = False) -> int:
    """Peak bytes since the last reset. Linux and CUDA count them."""
    if device == "cuda":
        import torch

        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def runs_in_turn(args: argparse.Namespace, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name of the checkout, what it measured), alternating."""
    checkouts = ({"baseline": args.baseline_repo} if args.baseline_repo else {}) | {"here": str(_ROOT)}
    for _ in range(args.repeats):
        for name, repo in checkouts.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--folder", folder]
            environment = os.environ | {"PYTHONPATH": repo}
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
            yield name, json.loads(output.splitlines()[-1])


def report(args: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> None:
    """Print medians; with a baseline also the ratios to it."""
    print(f"{'batch':>5}{'checkout':>10}{'answers/s':>11}{'slot use':>10}{'speed':>8}  answers")
    for size in map(str, args.batch_size):
        first = None
        for name, found in runs.items():
            of_size = [one["sizes"][size] for one in found]
            seconds = statistics.median(one["seconds"] for one in of_size)
            first = first or (seconds, of_size[0]["answers"])
            equal = "equal" if all(one["answers"] == first[1] for one in of_size) else "DIFFERENT"
            speed = f"{args.questions / seconds:>11.2f}{of_size[0]['use']:>10.2f}{first[0] / seconds:>8.2f}"
            print(f"{size:>5}{name:>10}{speed}  {equal}")
    for name, found in runs.items():
        rows, length = found[0]["positions"]
        peak = statistics.median(one["bytes"] for one in found) / 2**20
        print(f"prefill of {rows} x {length} positions, {name}: {peak:.0f} MiB beyond the model")


def main() -> int:
    """Measure; with --folder, as the process for one checkout."""
    args = parse()
    if args.folder:
        print(json.dumps(measure(args)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if args.model_path is None:
            make_model(Path(folder))
        runs: dict[str, list[dict[str, Any]]] = {}
        for name, found in runs_in_turn(args, folder):
            runs.setdefault(name, []).append(found)
        report(args, runs)
    return 0


def _tests_module(name: str) -> ModuleType:
    """A module of the tests folder, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, _ROOT / "tests" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    run(main)
