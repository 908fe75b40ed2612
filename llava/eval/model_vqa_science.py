"""LLaVA's model_vqa_science: ScienceQA's questions (`id`, `conversations`, `image` optional; JSON).

The answer lines are LLaVA's; `prompt` is the whole question, which `llava.eval.eval_science_qa` looks into.
"""

import os
from collections.abc import Sequence

from llava.generate.answers import Asked
from llava.generate.command import answer_command, answer_parser
from llava.generate.questions import Question
from visatb.cli import run
from visatb.errors import InputError
from visatb.records import IMAGE_TOKEN, name_of, read_records, resolve_image

LETTER_ONLY = "Answer with the option's letter from the given choices directly."


def read(path: str | os.PathLike, image_folder: str | os.PathLike, single_pred_prompt: bool = False) -> list[Asked]:
    """The questions of a file in the format of LLaVA's llava_test_CQM-A.json.

    Args:
        path: a JSON list, or JSON Lines.
        image_folder: what `image` fields are relative to.
        single_pred_prompt: ask for the option's letter alone.

    Raises:
        InputError: naming file, record and field; an image that is not in the image folder.
    """
    asked = []
    for n, record in enumerate(read_records(path)):
        where = f"{path}: {name_of(record, n)}"
        if "id" not in record:
            raise InputError(f"{where}: id is missing. Give every question an id.")
        turns = record.get("conversations")
        first = turns[0] if isinstance(turns, list) and turns else None
        if not isinstance(first, dict) or not isinstance(first.get("value"), str):
            raise InputError(f"{where}: conversations[0].value must be the question. Give LLaVA's file.")
        text = first["value"].replace(IMAGE_TOKEN, "").strip()
        image, images = record.get("image"), ()
        if image is not None:
            if not isinstance(image, str):
                raise InputError(f"{where}: image must be a path. Correct the field.")
            images = (resolve_image(image_folder or ".", image, where),)
            text = f"{IMAGE_TOKEN}\n{text}"
        if single_pred_prompt:
            text = f"{text}\n{LETTER_ONLY}"
        asked.append(Asked(Question(n, where, text, images), {"question_id": record["id"], "prompt": text, "text": ""}))
    return asked


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    example = "--question-file llava_test_CQM-A.json --image-folder images/test --single-pred-prompt"
    parser = answer_parser("model_vqa_science", __doc__, 1024, example)
    parser.add_argument("--single-pred-prompt", action="store_true", help="ask for the option's letter alone")
    args = parser.parse_args(argv)
    return answer_command(args, lambda: read(args.question_file, args.image_folder, args.single_pred_prompt))


if __name__ == "__main__":
    run(main)
