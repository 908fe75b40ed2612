"""What the commands that write answer files have in common."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava.generate.answers import AnswerFile, Asked, llava_answer_file
from llava.generate.engine import Model
from llava.generate.engines import model_of
from llava.generate.flags import ENGINE, MODEL, ONE_QUESTION, SPEED, add_flags, settings_of
from llava.generate.shard import Shard, get_chunk, ranks_together, shard_of
from visatb.cli import ArgumentParser


def answer_files(args: Any, files: Sequence[AnswerFile], model: Model, shard: Shard, remedy: str) -> int:
    """Ask this process's share of all files with one loaded model; who finishes last writes a file.

    Args:
        args: batch_size, workers, overwrite.
        files: with the same settings.
        remedy: what to do about a file that was made differently, for the message.

    Returns:
        The exit code.
    """
    with ranks_together(shard) as wait_for_all:
        for file in files:
            file.clear_way(remedy, args.overwrite)
        wait_for_all()
        unfinished = [file for file in files if not file.work.complete()]
        asked = [file for file in unfinished if file.open_questions(shard)]
        engine = model.load(asked[0].settings) if asked else None
        if asked and shard.rank == 0:
            model.report()
        for file in unfinished:
            if file in asked:
                file.answer(engine, args.batch_size, args.workers, shard)
            outcome = file.finish(shard)
            if outcome.written:
                print(outcome.message)
        wait_for_all()
        return _report(files, unfinished, shard)


def _report(files: Sequence[AnswerFile], unfinished: Sequence[AnswerFile], shard: Shard) -> int:
    """Say how every file stands, unless it was just written; returns the exit code."""
    code = 0
    for file in files:
        outcome = file.finish(shard)
        if outcome.written and file in unfinished:
            continue
        code = max(code, outcome.code)
        if shard.rank == 0 and outcome.code:
            print(f"error: {outcome.message}", file=sys.stderr)
        elif shard.rank == 0:
            print(outcome.message)
    return code


def answer_parser(module: str, description: str | None, max_new_tokens: int, example: str = "") -> ArgumentParser:
    """The flags of LLaVA's model_vqa commands.

    Args:
        module: name of the command, for the example.
        description: what it does.
        max_new_tokens: its default.
        example: further flags of the example.
    """
    parser = ArgumentParser(
        description=description,
        epilog=f"example:\n  python -m llava.eval.{module} --model-path liuhaotian/llava-v1.5-7b \\\n"
        f"      --answers-file answers.jsonl {example}",
    )
    parser.add_argument("--question-file", "--questions-file", required=True, help="in the benchmark's format")
    parser.add_argument("--answers-file", required=True, help="JSON Lines to be written; join those of chunks with cat")
    add_flags(parser, (*ENGINE, *MODEL, "--image-folder", *ONE_QUESTION, *SPEED), max_new_tokens=max_new_tokens)
    parser.set_defaults(overwrite=False)
    return parser


def answer_command(args: Any, read: Callable[[], list[Asked]]) -> int:
    """What the model_vqa commands do with their flags: ask this chunk's questions and write its own answers file.

    Args:
        args: of `answer_parser`.
        read: gives all questions.

    Returns:
        The exit code.
    """
    shard = shard_of(args.chunk_idx, args.num_chunks, os.environ)
    settings = settings_of(args)
    asked = get_chunk(read(), args.num_chunks, args.chunk_idx)
    model = model_of(args, shard.local_rank)
    file = llava_answer_file(Path(args.answers_file), args.question_file, asked, settings, model.fingerprint())
    within = replace(shard, chunk=0, chunks=1)  # the file holds this chunk alone
    return answer_files(args, [file], model, within, "Move it away or choose another --answers-file.")
