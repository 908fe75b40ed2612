"""LLaVA's model_vqa_mmbench: the questions of an MMBench TSV, whose images stand in it.

    {"question_id": 7, "round_id": 0, "prompt": "...", "text": "B", "options": [...], "option_char": ["A", ...], ...}

With --all-rounds each question is asked once for every option, the options turned by one each time.
"""

import base64
import binascii
import os
from collections.abc import Sequence

from llava.eval.model_vqa_science import LETTER_ONLY
from llava.eval.scorers.mmbench_table import LETTERS, Row, read_table
from llava.generate.answers import Asked
from llava.generate.command import answer_command, answer_parser
from llava.generate.questions import Question
from visatb.cli import run
from visatb.errors import InputError

INSTRUCTIONS = {"en": LETTER_ONLY, "cn": "请直接回答选项字母。"}


def read(
    path: str | os.PathLike, single_pred_prompt: bool = False, lang: str = "en", all_rounds: bool = False
) -> list[Asked]:
    """The questions of an MMBench TSV.

    Args:
        path: the official file.
        single_pred_prompt: ask for the option's letter alone.
        lang: language in which that is asked: "en" or "cn".
        all_rounds: one question for every turn of the options.

    Raises:
        InputError: naming file and row: as `read_table`; an image that is not base64.
    """
    rows = read_table(path)
    by_index = {row.index: row for row in rows}
    asked: list[Asked] = []
    for row in rows:
        image = _image_of(row, by_index)
        options, letters = list(row.options.values()), list(LETTERS[: len(row.options)])
        for turn in range(len(options) if all_rounds else 1):
            shown, names = options[turn:] + options[:turn], letters[turn:] + letters[:turn]
            hint = row.cells.get("hint")
            lines = [hint] if hint is not None else []
            lines.append(row.cells["question"] or "")
            lines += [f"{letter}. {option}" for letter, option in zip(letters, shown, strict=True)]
            prompt = "\n".join(lines)
            text = f"{prompt}\n{INSTRUCTIONS[lang]}" if single_pred_prompt else prompt
            line = {"question_id": row.index, "round_id": turn, "prompt": prompt, "text": ""}
            line |= {"options": shown, "option_char": names}
            asked.append(Asked(Question(len(asked), row.where, text, (image,)), line))
    return asked


def _image_of(row: Row, by_index: dict[int, Row]) -> bytes:
    """The image file in a row; a number in place of it is the index of the row that has it, as in later tables."""
    cell = row.cells.get("image") or ""
    if cell.isdecimal() and int(cell) in by_index:
        cell = by_index[int(cell)].cells.get("image") or ""
    try:
        content = base64.b64decode(cell, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not content:
        raise InputError(f"{row.where}: image must be base64 text. Download the file again.")
    return content


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = answer_parser(
        "model_vqa_mmbench", __doc__, 1024, "--question-file mmbench_dev_20230712.tsv --single-pred-prompt"
    )
    parser.add_argument("--single-pred-prompt", action="store_true", help="ask for the option's letter alone")
    parser.add_argument("--lang", choices=list(INSTRUCTIONS), default="en", help="language in which that is asked")
    parser.add_argument("--all-rounds", action="store_true", help="ask again for every turn of the options")
    args = parser.parse_args(argv)
    return answer_command(args, lambda: read(args.question_file, args.single_pred_prompt, args.lang, args.all_rounds))


if __name__ == "__main__":
    run(main)
