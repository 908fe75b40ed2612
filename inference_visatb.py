"""Ask a model the questions of annotation files and write answer files that eval/ scores.

Every record's first question is asked. The answer file holds the same records plus
`conversations[1].generative_value` and `generator`, and is named `<question stem>_<model name>.json` with `_` as `-`.
It is complete or absent; docs/inference.md describes how runs resume, are split and merged.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava.generate.answers import AnswerFile, Asked, write_records
from llava.generate.command import answer_files
from llava.generate.engine import Model
from llava.generate.engines import model_of
from llava.generate.fingerprint import file_digest, images_digest
from llava.generate.flags import ENGINE, MODEL, ONE_QUESTION, SPEED, add_flags, settings_of
from llava.generate.questions import Question, Settings
from llava.generate.shard import shard_of
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.records import (
    check_records,
    image_names,
    most_bad_images,
    name_of,
    read_records,
    refuse_missing_folder,
    resolve_image,
)

FORMAT = 1  # of the answers: raised when the same model, questions and settings would be answered differently

_REMEDY = "Move it away, choose another --answers-folder or --model-name, or pass --overwrite."
_EXAMPLE = """example:
  python inference_visatb.py --model-path runs/demo/models/visatb --image-folder runs/demo/images \\
      --question-file val_a.json val_b.json --answers-folder runs/demo/answers --batch-size 16
several GPUs:
  torchrun --nproc-per-node 8 inference_visatb.py ...
a current vision-language model, in its environment:
  .venv-hf/bin/python inference_visatb.py --engine hf --model-path MODEL ...
a server (vLLM, SGLang, transformers serve):
  python inference_visatb.py --engine server --server-url http://localhost:8000/v1 --server-model NAME ...
"""


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    add_flags(parser.add_argument_group("model"), (*ENGINE, *MODEL))
    data = parser.add_argument_group("questions and answers")
    data.add_argument("--question-file", nargs="+", required=True, metavar="FILE", help="annotation files")
    data.add_argument("--answers-folder", required=True, help="where answer files go; unfinished work in its work/")
    data.add_argument("--on-bad-image", choices=["fail", "skip"], default="fail", help="skip: leave the record out")
    add_flags(data, ("--image-folder", "--overwrite"))
    add_flags(parser.add_argument_group("generation"), ONE_QUESTION, max_new_tokens=128)
    add_flags(parser.add_argument_group("speed; no effect on the answers"), SPEED)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)
    shard = shard_of(args.chunk_idx, args.num_chunks, os.environ)
    settings = settings_of(args)
    model = model_of(args, shard.local_rank)
    return answer_files(args, plan_files(args, settings, model), model, shard, _REMEDY)


def plan_files(args: Any, settings: Settings, model: Model) -> list[AnswerFile]:
    """Read and check everything that can be checked before the model is loaded.

    Raises:
        InputError: naming file, record and field.
    """
    folder = Path(args.answers_folder)
    if not args.answers_folder or (folder.exists() and not folder.is_dir()):
        raise InputError(f"--answers-folder must be a folder, got {args.answers_folder!r}. Choose another.")
    made_from = {"format": FORMAT, **model.fingerprint()}
    files: dict[Path, AnswerFile] = {}
    for source in map(Path, args.question_file):
        asked = read(source, args.image_folder, args.on_bad_image == "skip")
        pictured = next((one.question for one in asked if one.question.images), None)
        if pictured is not None and not model.sees_images:
            raise InputError(
                f"{pictured.where}: has an image, and {model.name} has no vision tower. Give a model that has one."
            )
        final = folder / answer_file_name(source, model.name)
        if final in files:
            raise InputError(f"{source} and {files[final].source} would both be answered in {final}. Rename one.")
        images = [image_names(one.record) for one in asked]
        digests = {
            "questions": file_digest(source),
            "images": images_digest(args.image_folder, (name for names in images for name in names)),
        }
        most_omitted = most_bad_images(sum(map(bool, images))) if args.on_bad_image == "skip" else None
        remedy = "Fix the image or pass --on-bad-image skip"
        file = AnswerFile(final, source, asked, settings, made_from | digests, write_records, most_omitted, remedy)
        missing = [one.question.problem for one in asked if one.question.problem is not None]
        if most_omitted is not None and len(missing) > most_omitted:
            raise InputError(f"{file.too_many_bad(len(missing))}; the first: {missing[0]}")
        files[final] = file
    return list(files.values())


def read(path: Path, image_folder: str, skip_bad_images: bool) -> list[Asked]:
    """The questions of an annotation file: the first turn of each record, about its images.

    Raises:
        InputError: naming file, record and field; an image that is missing or lies outside the image folder, unless
            such records are skipped.
    """
    records = read_records(path)
    check_records(records, path, training=False)
    asked = []
    for n, record in enumerate(records):
        where, names = f"{path}: {name_of(record, n)}", image_names(record)
        if names and not image_folder:
            raise InputError(f"{where} has an image. Set --image-folder.")
        if names:
            refuse_missing_folder(image_folder)
        images, problem = [], None
        for name in names:
            try:
                images.append(resolve_image(image_folder, name, where))
            except InputError as error:
                if not skip_bad_images:
                    raise
                problem = str(error)
        asked.append(Asked(Question(n, where, record["conversations"][0]["value"], tuple(images), problem), record))
    return asked


def answer_file_name(question_file: Path, name: str) -> str:
    """`my_questions.json`, `llava_tiny` -> `my-questions_llava-tiny.json`."""
    return f"{question_file.stem.replace('_', '-')}_{name.replace('_', '-')}.json"


if __name__ == "__main__":
    run(main)
