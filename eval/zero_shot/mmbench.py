"""MMBench and MMBench-CN: circular accuracy on a TSV that has the answers (dev), and the workbook for the server.

A question counts only if it is right in every turn of its options (https://github.com/open-compass/MMBench). The turns
are rows of the TSV (index + 10^6, 2 * 10^6, ...), or rounds of LLaVA's `--all-rounds`; a TSV with neither is scored
question by question. An option is read out of an answer by the rules of VLMEvalKit without a language model: an answer
that they cannot read is wrong, where the server would ask ChatGPT.
"""

import os
from collections.abc import Sequence
from dataclasses import replace

from eval.scores import Entry, Scores, entry, percent, percent_by
from eval.zero_shot.answers import AnswerLine, Answers, in_order_of, outcome
from eval.zero_shot.command import scorer
from eval.zero_shot.definition import Evaluation, Place, ZeroShot
from eval.zero_shot.mmbench_table import LETTERS, Cell, Row, read_table, workbook
from visatb.cli import run
from visatb.errors import InputError

TURN = 10**6
_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_LAST_WORDS = 4
_NOT_SUBMITTED = ("hint", "category", "source", "image", "comment", "l2-category")
_PREDICTION_AT = 6

Round = tuple[int, int]


def parse_option(text: str, options: dict[str, str]) -> str | None:
    """The letter of the option that an answer names; None if it names none, or several.

    Args:
        text: the answer.
        options: letter -> text.

    Returns:
        The only letter among the words, if it is one of the last four; else the only option whose text the answer
        holds, unless the answer is more than twice as long as all options.
    """
    words = text.translate(_MARKS).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and words.index(letters[0]) >= len(words) - _LAST_WORDS:
        return letters[0]
    said = text.lower()
    if len(said) > 2 * sum(len(option) for option in options.values()):
        return None
    named = [letter for letter, option in options.items() if option.lower() in said]
    return named[0] if len(named) == 1 else None


def score(answers: Answers, rows: Sequence[Row], source: str | os.PathLike) -> Scores:
    """Circular accuracy in percent, with that of every category and l2-category.

    There is one answer to each row (of `read_table`); with LLaVA's `--all-rounds` to each turn of its options.
    """
    turns = _turns(answers, rows, source)
    groups: dict[int, list[tuple[Row, AnswerLine]]] = {}
    for row, line in turns:
        if row.cells.get("answer") not in row.options:
            raise InputError(
                f"{row.where}: answer must be one of {', '.join(row.options)}, got {row.cells.get('answer')!r}. "
                "A TSV without answers (test) can only be submitted."
            )
        groups.setdefault(row.index % TURN, []).append((row, line))
    entries = [_entry(group) for group in groups.values()]
    categories, abilities = percent_by(entries, "category"), percent_by(entries, "l2-category")
    total = percent(entries)
    circular = len(turns) > len(groups)
    every = sum(one["rounds_right"] for one in entries) / len(turns) * 100
    summary = [f"{'Circular accuracy' if circular else 'Accuracy'}: {total:.2f}%"]
    summary += [f"Accuracy of single rounds: {every:.2f}%"] if circular else []
    for group, found in (("l2-category", abilities), ("category", categories)):
        summary += [f"  {group} {name}: {value:.2f}%" for name, value in found.items()]
    return outcome(
        "circular_accuracy" if circular else "accuracy",
        total,
        entries,
        summary,
        rounds=len(turns),
        round_accuracy=every,
        category=categories,
        l2_category=abilities,
    )


def submission(answers: Answers, rows: Sequence[Row], source: str | os.PathLike) -> tuple[list[str], list[list[Cell]]]:
    """Columns and rows of the workbook that LLaVA's convert_mmbench_for_submission writes.

    The TSV's columns without hint, category, source, image, comment and l2-category, with `prediction` as the seventh.
    Of several rounds the first is taken.
    """
    first = {row.index: line for row, line in reversed(_turns(answers, rows, source))}
    columns = [name for name in rows[0].cells if name not in _NOT_SUBMITTED]
    columns.insert(min(_PREDICTION_AT, len(columns)), "prediction")
    table = []
    for row in rows:
        cells: dict[str, Cell] = {**row.cells, "index": row.index, "prediction": first[row.index].text}
        table.append([cells[name] for name in columns])
    return columns, table


def _turns(answers: Answers, rows: Sequence[Row], source: str | os.PathLike) -> list[tuple[Row, AnswerLine]]:
    """Every round of every row with its answer."""
    all_rounds = any(_round_of(line) for line in answers.lines)
    asked = [(row, n) for row in rows for n in range(len(row.options) if all_rounds else 1)]
    lines = in_order_of([(str(row.index), n) for row, n in asked], answers, source, lambda x: (x.key, _round_of(x)))
    return [(row, line) for (row, _), line in zip(asked, lines, strict=True)]


def _round_of(line: AnswerLine) -> int:
    number = line.record.get("round_id", 0)
    if not isinstance(number, int) or isinstance(number, bool):
        raise InputError(f"{line.where}: round_id must be a whole number, got {number!r}. Fix the line.")
    return number


def _entry(group: Sequence[tuple[Row, AnswerLine]]) -> Entry:
    """One question in all its turns; its category is that of the row that was not turned."""
    row, line = min(group, key=lambda turn: (turn[0].index, _round_of(turn[1])))
    said = [_said(*turn) for turn in group]
    right = sum(1 for letter, (turned, _) in zip(said, group, strict=True) if letter == turned.cells["answer"])
    names = {name: row.cells.get(name) for name in ("category", "l2-category")}
    return entry(
        line, right == len(group), row.cells["answer"], malformed=None in said, rounds_right=right, said=said, **names
    )


def _said(row: Row, line: AnswerLine) -> str | None:
    """The letter in the TSV of the option that an answer names: each round of LLaVA begins one option later."""
    letters = list(row.options)
    turn = _round_of(line)
    shown = letters[turn:] + letters[:turn]
    options = {LETTERS[n]: row.options[letter] for n, letter in enumerate(shown)}
    named = parse_option(line.text, options)
    return None if named is None else shown[LETTERS.index(named)]


def evaluate(
    answers: Answers, annotation_file: str, result_upload_file: str | None = None, no_score: bool = False
) -> Evaluation:
    """The scores against a TSV, and the workbook if a file for it is named; with `no_score` the workbook alone."""
    if no_score and result_upload_file is None:
        raise InputError("--no-score leaves nothing to do without --result-upload-file. Give the workbook's name.")
    rows = read_table(annotation_file)
    scores = None if no_score else score(answers, rows, annotation_file)
    files = {}
    if result_upload_file is not None:
        files[result_upload_file] = workbook(*submission(answers, rows, annotation_file))
    return Evaluation(answers.source, scores, files)


def _evaluations(place: Place, answers: Answers) -> list[Evaluation]:
    """The workbook for the server, and the score where the table has the answers."""
    table = place.data("{split}.tsv")
    no_score = all(row.cells.get("answer") is None for row in read_table(table))
    return [evaluate(answers, table, place.made("answers_upload/{split}/{model}.xlsx"), no_score)]


_MMBENCH = ZeroShot(
    "MMBench",
    ("mmbench",),
    "{split}.tsv",
    "",
    {"{split}.tsv": "https://download.openmmlab.com/mmclassification/datasets/mmbench/{split}.tsv"},
    _evaluations,
    "answers/{split}/{model}.jsonl",
    reader="mmbench",
    reader_options={"single_pred_prompt": True},
    split="mmbench_dev_20230712",
    max_new_tokens=1024,
)
BENCHMARKS = {
    "mmbench": _MMBENCH,
    "mmbench_cn": replace(
        _MMBENCH,
        task="MMBench-CN",
        folders=("mmbench", "mmbench_cn"),
        reader_options={"single_pred_prompt": True, "lang": "cn"},
        split="mmbench_dev_cn_20231003",
    ),
}


FLAGS = {
    "annotation_file": ("the TSV", "--annotation-file", "--question-file"),
    "result_upload_file": "write the workbook (.xlsx) that the server takes",
    "no_score": "only write the workbook: a TSV without answers (test)",
}
EXAMPLE = "--annotation-file mmbench_dev_20230712.tsv"
main = scorer("mmbench", __doc__, EXAMPLE, "MMBench", evaluate, FLAGS, "result_upload_file")

if __name__ == "__main__":
    run(main)
