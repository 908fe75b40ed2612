"""LLaVA's convert_answer_to_mme: `<subtask>.txt` files for MME's official calculation.py, in LLaVA's folders.

Reads `answers/<experiment>.jsonl` and writes `eval_tool/answers/<experiment>/` under --dir; prints the scores.
"""

from collections.abc import Sequence
from pathlib import Path

from llava.eval.scorers import mme
from visatb.cli import ArgumentParser, run


def main(argv: Sequence[str] | None = None) -> int:
    """The command, with LLaVA's flag."""
    parser = ArgumentParser(
        description=__doc__,
        epilog="example:\n  python scripts_visatb/eval/convert_answer_to_mme.py --experiment my-model",
    )
    parser.add_argument("--dir", default="./playground/data/eval/MME", help="folder of the benchmark")
    parser.add_argument("--experiment", required=True, help="name of the answers file, without .jsonl")
    options = parser.parse_args(argv)
    folder = Path(options.dir)
    files = {
        "--answers-file": folder / "answers" / f"{options.experiment}.jsonl",
        "--annotation-dir": folder / "MME_Benchmark_release_version",
        "--result-upload-dir": folder / "eval_tool" / "answers" / options.experiment,
    }
    return mme.main([str(word) for pair in files.items() for word in pair])


if __name__ == "__main__":
    run(main)
