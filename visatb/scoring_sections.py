"""The `judge` and `zero_shot` sections of a benchmark file: flags of eval/judge.py and llava.eval.suite by name."""

from visatb.flag_section import check_flags, flags
from visatb.inference_section import GENERATION_KINDS

SPLITS = ("train", "val", "test")

JUDGE_KINDS = {
    "judge-model": "text",
    "judge-url": "text",
    "judge-temperature": "number",
    "judge-max-tokens": "count",
    "rule-file": "text",
    "context-file": "text",
    "concurrency": "count",
}
# Flags of the program but for those that the run graph sets.
ZERO_SHOT_KINDS = GENERATION_KINDS | {
    "benchmarks": "text",
    "data": "text",
    "split": "text",
    "judge-model": "text",
    "judge-url": "text",
    "processes": "count",
    "num-chunks": "count",
    "chunk-idx": "whole",
}


def check_zero_shot(given: dict) -> None:
    """Refuse an invalid `zero_shot` section by BrokenError."""
    check_flags(given, ZERO_SHOT_KINDS)


def check_judge(given: dict) -> None:
    """Refuse an invalid `judge` section by BrokenError."""
    kinds = dict(JUDGE_KINDS)
    if isinstance(contexts := given.get("context-file"), dict):
        files = {f"context-file.{split}": "text" for split in SPLITS}
        check_flags({f"context-file.{split}": file for split, file in contexts.items()}, files)
        kinds["context-file"] = "any"
    plain = {key: None if isinstance(value, dict) and key == "context-file" else value for key, value in given.items()}
    check_flags(plain, kinds, numbers_as_text=False)


JUDGE = flags(JUDGE_KINDS, check_judge)
ZERO_SHOT = flags(ZERO_SHOT_KINDS, check_zero_shot)
