"""Time that `python -m llava.data.check` takes for a file of generated records without images.

    python -m perf.data_check [--records 100000 --workers 2]

Tasks, rounds and lengths resemble instruction data: short answers, boxes, captions, chats of several rounds. Words are
drawn by Zipf's law and the SentencePiece tokenizer is trained on them, so that the number of pieces per word and the
cost of tokenising are similar to those of English with a LLaMA vocabulary.
"""

import io
import itertools
import json
import random
import resource
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from visatb.cli import ArgumentParser, run

VOCABULARY = 8000


def main() -> int:
    """Generate, check, print."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000, help="records to generate")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the check")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw = random.Random(0)
        words = Words(draw)
        make_tokenizer(folder / "tokenizer", words)
        records = [make_record(n, draw, words) for n in range(args.records)]
        (folder / "train.json").write_text(json.dumps(records), encoding="utf-8")
        command = [sys.executable, "-m", "llava.data.check", "--data_path", str(folder / "train.json")]
        command += ["--tokenizer", str(folder / "tokenizer"), "--workers", str(args.workers), "--quiet"]
        started, used = time.perf_counter(), _cpu_seconds()
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds, used = time.perf_counter() - started, _cpu_seconds() - used
    print(output)
    print(f"{args.records:,} records in {seconds:.1f} s ({args.workers} processes, {used:.1f} s of CPU)")
    return 0


def _cpu_seconds() -> float:
    """Resources used by finished child processes so far: a measure of work that is independent of other load."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Words:
    """Texts whose word frequencies follow Zipf's law."""

    def __init__(self, draw: random.Random, size: int = 20_000):
        self._draw = draw
        self._words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 9))) for _ in range(size)]
        self._cumulated = list(itertools.accumulate(1 / (rank + 3) for rank in range(size)))

    def __call__(self, least: int, most: int) -> str:
        """A sentence with a number of words in this range."""
        words = self._draw.choices(self._words, cum_weights=self._cumulated, k=self._draw.randint(least, most))
        return " ".join(words).capitalize() + "."


def make_tokenizer(folder: Path, words: Callable[[int, int], str]) -> None:
    """Save a LLaMA-like SentencePiece tokenizer trained on such sentences."""
    import sentencepiece
    from transformers import LlamaTokenizer

    folder.mkdir()
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words(5, 40) for _ in range(10_000)),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    LlamaTokenizer(str(folder / "tokenizer.model")).save_pretrained(folder)


def make_record(n: int, draw: random.Random, words: Callable[[int, int], str]) -> dict[str, Any]:
    """A record of one of four tasks, with one to three rounds."""
    task = draw.choice(("Caption", "Question", "Grounding", "Chat"))
    turns = []
    for _ in range(draw.randint(1, 3)):
        question, answer = {
            "Caption": lambda: (words(4, 12), words(8, 30)),
            "Question": lambda: (f"{words(5, 12)}\nAnswer the question using a single word or phrase.", words(1, 2)),
            "Grounding": lambda: (words(10, 25), make_box(draw)),
            "Chat": lambda: (words(8, 30), words(30, 150)),
        }[task]()
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": f"{task}-{n}", "task": task, "conversations": turns}


def make_box(draw: random.Random) -> str:
    """The answer of a grounding record."""
    left, top = draw.randint(0, 50) / 100, draw.randint(0, 50) / 100
    return f"[{left:.2f}, {top:.2f}, {left + draw.uniform(0.05, 0.5):.2f}, {top + draw.uniform(0.05, 0.5):.2f}]"


if __name__ == "__main__":
    run(main)
