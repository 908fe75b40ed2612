"""LLaVA's convert_vqav2_for_submission: the file that VQAv2's server takes, in LLaVA's folders.

Reads `answers/<split>/<ckpt>/merge.jsonl` and writes `answers_upload/<split>/<ckpt>.json` under --dir. The answers must
be exactly those to `<split>.jsonl`; the other questions of llava_vqav2_mscoco_test2015.jsonl get an empty answer.
"""

from collections.abc import Sequence
from pathlib import Path

from llava.eval.scorers import submissions
from visatb.cli import ArgumentParser, run


def main(argv: Sequence[str] | None = None) -> int:
    """The command, with LLaVA's flags."""
    parser = ArgumentParser(
        description=__doc__,
        epilog="example:\n  python scripts_visatb/eval/convert_vqav2_for_submission.py "
        "--split llava_vqav2_mscoco_test-dev2015 --ckpt my-model",
    )
    parser.add_argument("--dir", default="./playground/data/eval/vqav2", help="folder of the benchmark")
    parser.add_argument("--ckpt", required=True, help="name of the model's folder of answers")
    parser.add_argument("--split", required=True, help="name of the question file, without .jsonl")
    options = parser.parse_args(argv)
    folder = Path(options.dir)
    files = {
        "--answers-file": folder / "answers" / options.split / options.ckpt / "merge.jsonl",
        "--question-file": folder / f"{options.split}.jsonl",
        "--all-question-file": folder / "llava_vqav2_mscoco_test2015.jsonl",
        "--output": folder / "answers_upload" / options.split / f"{options.ckpt}.json",
    }
    return submissions.main(["vqav2", *(str(word) for pair in files.items() for word in pair)])


if __name__ == "__main__":
    run(main)
