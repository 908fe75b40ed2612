"""LLaVA's question files (`question_id`, `image`, `text`; JSON Lines) to LLaVA's answer files.

    {"question_id": 3, "prompt": "...", "text": "the answer", "answer_id": "...", "model_id": "...", "metadata": {}}

As in LLaVA a chunk is a contiguous part of the questions with an answers file of its own, to be joined with `cat`. The
file is complete or absent; a run that was killed resumes where it was. `llava.eval.model_vqa` is the same command for
long answers.
"""

import os
from collections.abc import Sequence

from llava.generate.answers import Asked
from llava.generate.command import answer_command, answer_parser
from llava.generate.questions import Question
from llava.generate.shard import get_chunk
from visatb.cli import run
from visatb.errors import InputError
from visatb.records import read_records, resolve_image

__all__ = ["get_chunk", "main", "read"]


def read(path: str | os.PathLike, image_folder: str | os.PathLike, image_prefix: str = "") -> list[Asked]:
    """The questions of a file in LLaVA's format.

    Args:
        path: JSON Lines (`.jsonl`), or a JSON list.
        image_folder: what `image` fields are relative to.
        image_prefix: what file names begin with where `image` lacks it (COCO's `COCO_val2014_`).

    Raises:
        InputError: naming file, record and field; an image that is not in the image folder.
    """
    asked = []
    for n, entry in enumerate(read_records(path)):
        if not isinstance(entry.get("text"), str):
            raise InputError(f"{path}: record {n}: text must be a string. Write the question there.")
        if "question_id" not in entry:
            raise InputError(f"{path}: record {n}: question_id is missing. Give every question an id.")
        where = f"{path}: record {n} (question_id {entry['question_id']!r})"
        image = entry.get("image")
        if image is not None and not isinstance(image, str):
            raise InputError(f"{path}: record {n}: image must be a path. Correct the field.")
        if image and image_prefix and not os.path.exists(os.path.join(image_folder, image)):
            image = image_prefix + image
        images = () if image is None else (resolve_image(image_folder or ".", image, where),)
        line = {"question_id": entry["question_id"], "prompt": entry["text"], "text": ""}
        asked.append(Asked(Question(n, where, entry["text"], images), line))
    return asked


def main(argv: Sequence[str] | None = None, module: str = "model_vqa_loader", max_new_tokens: int = 128) -> int:
    """Run the command; returns its exit code."""
    example = "--question-file questions.jsonl --image-folder images"
    args = answer_parser(module, __doc__, max_new_tokens, example).parse_args(argv)
    return answer_command(args, lambda: read(args.question_file, args.image_folder))


if __name__ == "__main__":
    run(main)
