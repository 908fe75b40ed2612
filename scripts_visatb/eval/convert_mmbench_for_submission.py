"""LLaVA's convert_mmbench_for_submission: the workbook that MMBench's server takes."""

from pathlib import Path

from eval.zero_shot import mmbench
from eval.zero_shot.answers import read_answers
from eval.zero_shot.command import converter
from visatb.cli import run
from visatb.files import refuse_unwritable


def _convert(annotation_file: str, result_dir: str, upload_dir: str, experiment: str) -> int:
    answers, upload = Path(result_dir) / f"{experiment}.jsonl", str(Path(upload_dir) / f"{experiment}.xlsx")
    refuse_unwritable([upload], [answers, annotation_file])
    return mmbench.evaluate(read_answers(answers), annotation_file, upload, no_score=True).finish()


main = converter(
    "convert_mmbench_for_submission",
    __doc__,
    "--annotation-file mmbench.tsv --result-dir answers --upload-dir answers_upload --experiment my-model",
    _convert,
    annotation_file="the TSV that was asked",
    result_dir="folder of <experiment>.jsonl",
    upload_dir="folder for <experiment>.xlsx",
    experiment="name of the answers file, without .jsonl",
)

if __name__ == "__main__":
    run(main)
