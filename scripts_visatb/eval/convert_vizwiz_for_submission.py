"""LLaVA's convert_vizwiz_for_submission: the file that VizWiz' server takes."""

from eval.zero_shot import vizwiz
from eval.zero_shot.answers import read_answers
from eval.zero_shot.command import converter
from visatb.cli import run


def _convert(annotation_file: str, result_file: str, result_upload_file: str) -> int:
    return vizwiz.submit(read_answers(result_file), annotation_file, result_upload_file).finish()


main = converter(
    "convert_vizwiz_for_submission",
    __doc__,
    "--annotation-file llava_test.jsonl --result-file answers.jsonl --result-upload-file upload.json",
    _convert,
    annotation_file="LLaVA's question lines (llava_test.jsonl)",
    result_file="LLaVA's answer lines",
    result_upload_file="file to be uploaded",
)

if __name__ == "__main__":
    run(main)
