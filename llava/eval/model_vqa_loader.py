"""LLaVA's question files (`question_id`, `image`, `text`; JSON Lines) to LLaVA's answer files, over the one loop.

    {"question_id": 3, "prompt": "...", "text": "the answer", "answer_id": "...", "model_id": "...", "metadata": {}}

As in LLaVA a chunk is a contiguous part of the questions with an answers file of its own, to be joined with `cat`. The
file is complete or absent; a run that was killed goes on where it was.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava.eval.fingerprint import file_digest, images_digest, model_fingerprint
from llava.eval.questions import Question, Settings
from llava.eval.work import Work
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import refuse_unwritable
from visatb.records import read_records, resolve_image

_EXAMPLE = """example:
  python -m llava.eval.model_vqa_loader --model-path liuhaotian/llava-v1.5-7b --image-folder images \\
      --question-file questions.jsonl --answers-file answers.jsonl
"""


def build_parser() -> ArgumentParser:
    """The command line, with LLaVA's flags."""
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("--model-path", required=True, help="folder of a checkpoint, or a name on the hub")
    parser.add_argument("--model-base", help="base model of a LoRA or projector-only checkpoint")
    parser.add_argument("--image-folder", default="", help="folder that `image` fields are relative to")
    parser.add_argument("--question-file", required=True, help="JSON Lines (.jsonl), or a JSON list")
    parser.add_argument("--answers-file", required=True, help="JSON Lines to be written")
    parser.add_argument("--conv-mode", default="vicuna_v1", help="conversation template")
    parser.add_argument("--num-chunks", type=int, default=1, help="parts that the questions are split into")
    parser.add_argument("--chunk-idx", type=int, default=0, help="which part to ask")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: greedy or beam search; above: draw")
    parser.add_argument("--top_p", type=float, help="draw from the likeliest tokens that hold this share")
    parser.add_argument("--num_beams", type=int, default=1, help="width of the beam search")
    parser.add_argument("--max_new_tokens", type=int, default=128, help="longest answer")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--batch-size", type=int, default=16, help="questions at a time")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; cuda where there is one if left out")
    parser.add_argument("--dtype", choices=["auto", "bf16", "fp16", "fp32"], default="auto", help="of the weights")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)
    from llava.eval.common import Answerer, answer_all, default_device, dtype_of
    from llava.mm_utils import get_model_name_from_path

    if args.batch_size < 1:
        raise InputError(f"--batch-size must be at least 1, got {args.batch_size}.")
    settings = Settings(args.conv_mode, args.temperature, args.top_p, args.num_beams, args.max_new_tokens, args.seed)
    entries = read_entries(args.question_file)
    part = get_chunk(range(len(entries)), args.num_chunks, args.chunk_idx)
    questions = [question_of(entries[n], n, args.question_file, args.image_folder) for n in part]
    device = default_device(args.device)
    dtype = dtype_of(args.dtype, device, args.model_path)
    name = get_model_name_from_path(args.model_path)
    made_from = {
        "answers": "llava",
        "generator": name,
        "dtype": dtype,
        "questions": file_digest(args.question_file),
        "images": images_digest(args.image_folder, (entries[n]["image"] for n in part if entries[n].get("image"))),
        "chunk": [args.chunk_idx, args.num_chunks],
        **model_fingerprint(args.model_path, args.model_base),
        **settings.fingerprint(),
    }
    work = Work(Path(args.answers_file), made_from)
    if work.complete():
        print(f"{work.final}: already complete")
        return 0
    refuse_unwritable([work.final], [args.question_file])
    work.refuse_foreign("Move it away or choose another --answers-file.")
    settled = {n for n, answer in work.answers().items() if answer.text is not None}
    if settled < set(part):
        answerer = Answerer.load(args.model_path, args.model_base, settings, device, dtype)
        with work.writing("answers") as writer:
            for batch in answer_all(answerer, questions, settled, args.batch_size):
                writer.append(batch)
    answers = work.answers()
    for question in questions:
        answer = answers[question.position]
        if answer.text is None:
            reason = answer.bad_image or f"{question.where}: {answer.failed}"
            print(f"error: {reason} (no answers file; the other answers are kept in {work.folder})", file=sys.stderr)
            return 2 if answer.bad_image else 1
    lines = [_answer_line(entries[n], answers[n].text, name) for n in part]
    work.finish("".join(lines), {"records": len(part)})
    return 0


def read_entries(path: str) -> list[dict[str, Any]]:
    """The questions of a file in LLaVA's format. Raises InputError naming file, record and field."""
    entries = read_records(path)
    for n, entry in enumerate(entries):
        if not isinstance(entry.get("text"), str):
            raise InputError(f"{path}: record {n}: text must be a string. Write the question there.")
        if "question_id" not in entry:
            raise InputError(f"{path}: record {n}: question_id is missing. Give every question an id.")
        if entry.get("image") is not None and not isinstance(entry["image"], str):
            raise InputError(f"{path}: record {n}: image must be a path. Mend the field.")
    return entries


def question_of(entry: dict[str, Any], position: int, path: str, image_folder: str) -> Question:
    """What is asked of one entry. Raises InputError for an image that is not in the image folder."""
    where = f"{path}: record {position} (question_id {entry['question_id']!r})"
    image = entry.get("image")
    images = () if image is None else (resolve_image(image_folder or ".", image, where),)
    return Question(position, where, entry["text"], images)


def get_chunk(items: Sequence[Any], chunks: int, chunk: int) -> Sequence[Any]:
    """The `chunk`-th of `chunks` contiguous parts of near equal size; empty where there are more parts than items."""
    if chunks < 1 or not 0 <= chunk < chunks:
        raise InputError(f"--chunk-idx must be from 0 to --num-chunks - 1, got {chunk} of {chunks}.")
    return items[len(items) * chunk // chunks : len(items) * (chunk + 1) // chunks]


def _answer_line(entry: dict[str, Any], text: str, name: str) -> str:
    content = {
        "question_id": entry["question_id"],
        "prompt": entry["text"],
        "text": text,
        # LLaVA draws a random id; made from the content, the same run writes the same file.
        "answer_id": hashlib.sha256(f"{name}\n{entry['question_id']}\n{text}".encode()).hexdigest()[:22],
        "model_id": name,
        "metadata": {},
    }
    return json.dumps(content, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    run(main)
