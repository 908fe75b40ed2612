"""LLaVA's convert_vizwiz_for_submission: the file that VizWiz' server takes."""

from collections.abc import Sequence

from llava.eval.scorers import submissions
from visatb.cli import ArgumentParser, run


def main(argv: Sequence[str] | None = None) -> int:
    """The command, with LLaVA's flags."""
    parser = ArgumentParser(
        description=__doc__,
        epilog="example:\n  python scripts_visatb/eval/convert_vizwiz_for_submission.py "
        "--annotation-file llava_test.jsonl --result-file answers.jsonl --result-upload-file upload.json",
    )
    parser.add_argument("--annotation-file", required=True, help="LLaVA's question lines (llava_test.jsonl)")
    parser.add_argument("--result-file", required=True, help="LLaVA's answer lines")
    parser.add_argument("--result-upload-file", required=True, help="file to be uploaded")
    options = parser.parse_args(argv)
    files = ["--question-file", options.annotation_file, "--answers-file", options.result_file]
    return submissions.main(["vizwiz", *files, "--output", options.result_upload_file])


if __name__ == "__main__":
    run(main)
