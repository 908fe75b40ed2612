"""The command lines of the metrics on annotation records."""

from collections.abc import Callable, Sequence
from typing import Any

from eval.answers import read_answers
from eval.scores import Scores, report
from visatb.cli import ArgumentParser
from visatb.files import refuse_unwritable

_SHARED = ("answers_file", "question_file", "key_by_position", "output", "per_record")


def evaluator(
    script: str,
    description: str | None,
    score: Callable[..., Scores],
    add_flags: Callable[[ArgumentParser], None] = lambda parser: None,
    prepare: Callable[..., dict[str, Any]] = lambda path, **flags: flags,
    more: str = "--output metrics.json",
) -> Callable[..., int]:
    """The `main` of a metric.

    Args:
        script, description, more: see `answer_parser`.
        score: answers -> scores, with the keywords that `prepare` returns.
        add_flags: declares the metric's own flags.
        prepare: (answer file, values of those flags by name) -> keywords of `score`; the flags as they are if left out.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        parser = answer_parser(script, description, more)
        add_flags(parser)
        options = parser.parse_args(argv)
        own = {name: value for name, value in vars(options).items() if name not in _SHARED}
        refuse_unwritable([options.output, options.per_record], [options.answers_file, options.question_file])
        answers = read_answers(options.answers_file, options.question_file, options.key_by_position)
        scores = score(answers.answers, **prepare(answers.path, **own))
        return report(scores, answers.source, options.output, options.per_record)

    return main


def answer_parser(script: str, description: str | None, more: str = "--output metrics.json") -> ArgumentParser:
    """The flags that all evaluators have.

    Args:
        script: file name of the command, for the example.
        description: what it computes.
        more: flags of the example.
    """
    parser = ArgumentParser(
        description=description,
        epilog=f"example:\n  python eval/{script} -a answers/VQAv2-val-2k_my-model.json {more}",
    )
    parser.add_argument(
        "-a", "--answers-file", "--answer-file", dest="answers_file", required=True, help="answer file to score"
    )
    parser.add_argument(
        "--question-file",
        help="annotation file that was asked: refuse answers that are not exactly its records "
        "(without the flag: the file in the answer file's folder whose name fits, if there is one)",
    )
    parser.add_argument(
        "--key-by-position",
        action="store_true",
        help="identify records by their position in the file, where ids repeat or are absent",
    )
    add_output_flags(parser)
    return parser


def add_output_flags(parser: ArgumentParser) -> None:
    """The flags that name the files of scores."""
    parser.add_argument("--output", help="write the metric to this JSON file, which eval/overall.py reads")
    parser.add_argument("--per-record", help="write the score of every record to this JSON Lines file")
