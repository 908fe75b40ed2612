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


FLAGS = {
    "--annotation-file": "the TSV that was asked",
    "--result-dir": "folder of <experiment>.jsonl",
    "--upload-dir": "folder for <experiment>.xlsx",
    "--experiment": "name of the answers file, without .jsonl",
}
EXAMPLE = (
    "--annotation-file mmbench_dev_20230712.tsv --result-dir answers/mmbench_dev_20230712 "
    "--upload-dir answers_upload/mmbench_dev_20230712 --experiment my-model"
)
main = converter("convert_mmbench_for_submission", __doc__, EXAMPLE, FLAGS, _convert)

if __name__ == "__main__":
    run(main)
