"""LLaVA's model_vqa_qbench: Q-Bench's single-choice questions about the quality of images.

    [{"img_path": "1.jpg", "question": "...", "candidates": ["Yes", "No"], "correct_ans": "Yes"}, ...]

The lines of the answers file are these records with `response`, which Q-Bench (https://github.com/Q-Future/Q-Bench)
takes and rates; what names the model comes after it.
"""

import os
from collections.abc import Sequence

from llava.generate.answers import Asked
from llava.generate.command import answer_command, answer_parser
from llava.generate.questions import Question
from visatb.cli import run
from visatb.errors import InputError
from visatb.records import read_records, resolve_image

LETTERS = ("A", "B", "C", "D")
# What LLaVA puts behind a question; where the Chinese one has a backslash, a line break was meant.
INSTRUCTIONS = {"en": "\nChoose between one of the options as follows:", "zh": "\\在下列选项中选择一个:"}


def read(path: str | os.PathLike, image_folder: str | os.PathLike, lang: str = "en") -> list[Asked]:
    """The questions of a file in Q-Bench's format (llvisionqa_dev.json).

    Args:
        path: a JSON list, or JSON Lines.
        image_folder: what `img_path` fields are relative to.
        lang: language in which to choose is asked: "en" or "zh".

    Raises:
        InputError: naming file, record and field; an image that is not in the image folder.
    """
    asked = []
    for n, record in enumerate(read_records(path)):
        where = f"{path}: record {n}"
        for field in ("img_path", "question"):
            if not isinstance(record.get(field), str):
                raise InputError(f"{where}: {field} must be text, got {record.get(field)!r:.40}. Give Q-Bench's file.")
        options = record.get("candidates")
        some = isinstance(options, list) and 1 <= len(options) <= len(LETTERS)
        if not some or not all(isinstance(option, str) for option in options):
            raise InputError(f"{where}: candidates must be 1 to {len(LETTERS)} texts. Give Q-Bench's file.")
        choices = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
        text = "\n".join([record["question"] + INSTRUCTIONS[lang], *choices])
        image = resolve_image(image_folder or ".", record["img_path"], where)
        asked.append(Asked(Question(n, where, text, (image,)), record | {"response": ""}, "response"))
    return asked


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    example = "--questions-file llvisionqa_dev.json --image-folder images_llvisionqa"
    parser = answer_parser("model_vqa_qbench", __doc__, 1024, example)
    parser.add_argument("--lang", choices=list(INSTRUCTIONS), default="en", help="language in which to choose is asked")
    args = parser.parse_args(argv)
    return answer_command(args, lambda: read(args.question_file, args.image_folder, args.lang))


if __name__ == "__main__":
    run(main)
