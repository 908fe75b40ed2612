"""LLaVA's convert_mmbench_for_submission: the workbook that MMBench's server takes."""

from collections.abc import Sequence
from pathlib import Path

from llava.eval.scorers import mmbench
from visatb.cli import ArgumentParser, run


def main(argv: Sequence[str] | None = None) -> int:
    """The command, with LLaVA's flags."""
    parser = ArgumentParser(
        description=__doc__,
        epilog="example:\n  python scripts_visatb/eval/convert_mmbench_for_submission.py "
        "--annotation-file mmbench_dev_20230712.tsv --result-dir answers/mmbench_dev_20230712 "
        "--upload-dir answers_upload/mmbench_dev_20230712 --experiment my-model",
    )
    parser.add_argument("--annotation-file", required=True, help="the TSV that was asked")
    parser.add_argument("--result-dir", required=True, help="folder of <experiment>.jsonl")
    parser.add_argument("--upload-dir", required=True, help="folder for <experiment>.xlsx")
    parser.add_argument("--experiment", required=True, help="name of the answers file, without .jsonl")
    options = parser.parse_args(argv)
    answers = Path(options.result_dir) / f"{options.experiment}.jsonl"
    upload = Path(options.upload_dir) / f"{options.experiment}.xlsx"
    files = ["--annotation-file", options.annotation_file, "--answers-file", str(answers)]
    return mmbench.main([*files, "--result-upload-file", str(upload), "--no-score"])


if __name__ == "__main__":
    run(main)
