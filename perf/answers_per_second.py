"""Answers per second on short-answer questions at several batch sizes, through the loop that all commands use.

    python -m perf.answers_per_second [--model-path MODEL] [--questions 64] [--batch-size 1 8] [--device cuda]

Without --model-path the tests' tiny model is asked (random weights, so every answer is --max_new_tokens long). Each
batch size asks the same questions after one batch to warm up; reading the images is part of the time, loading the model
is not. The last column is the ratio to the first batch size.
"""

import argparse
import importlib.util
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from visatb.cli import ArgumentParser, run

SHORT = "Answer the question using a single word or phrase."
_TESTS = Path(__file__).resolve().parents[1] / "tests"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model-path", help="folder of a LLaVA checkpoint; the tests' tiny model if left out")
    parser.add_argument("--questions", type=int, default=64, help="how many are asked at each batch size")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8], help="batch sizes")
    parser.add_argument("--max_new_tokens", type=int, default=5, help="longest answer")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; cuda where there is one if left out")
    parser.add_argument("--dtype", choices=["auto", "bf16", "fp16", "fp32"], default="auto", help="of the weights")
    return parser.parse_args(argv)


def make_questions(folder: Path, count: int) -> list[Any]:
    """Questions about drawn images."""
    from llava.generate.questions import Question

    data = _tests_module("zero_shot_data")
    questions = []
    for n in range(count):
        image = folder / f"{n}.png"
        image.write_bytes(data.picture(n))
        questions.append(Question(n, f"question {n}", f"What colour is square number {n}?\n{SHORT}", (image,)))
    return questions


def seconds_to_answer(answerer: Any, questions: list[Any], batch_size: int) -> float:
    """Wall-clock seconds for all questions."""
    from llava.generate.loop import answer_all

    started = time.perf_counter()
    answers = [answer for batch in answer_all(answerer, questions, (), batch_size) for answer in batch]
    failed = [answer for answer in answers if answer.text is None]
    if failed:
        raise RuntimeError(f"{len(failed)} questions failed; the first: {failed[0]}")
    return time.perf_counter() - started


def main() -> int:
    """Measure every batch size once."""
    args = parse()
    from llava.generate.llava_engine import LlavaEngine
    from llava.generate.llava_model import default_device, dtype_of
    from llava.generate.questions import Settings

    with tempfile.TemporaryDirectory() as folder:
        path = args.model_path
        if path is None:
            path = str(_tests_module("tiny").make_tiny_checkpoint(Path(folder) / "tiny") / "llava-tiny")
        device = default_device(args.device)
        settings = Settings(max_new_tokens=args.max_new_tokens)
        answerer = LlavaEngine.load(path, None, settings, device, dtype_of(args.dtype, device, path))
        questions = make_questions(Path(folder), args.questions)
        first = None
        print(f"{'batch':>5}{'answers/s':>11}{'ratio':>8}")
        for batch_size in args.batch_size:
            seconds_to_answer(answerer, questions[:batch_size], batch_size)
            speed = len(questions) / seconds_to_answer(answerer, questions, batch_size)
            first = first or speed
            print(f"{batch_size:>5}{speed:>11.1f}{speed / first:>8.2f}")
    return 0


def _tests_module(name: str) -> ModuleType:
    """A module of the tests' folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, _TESTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    run(main)
