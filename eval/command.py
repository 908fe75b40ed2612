"""Command lines made of functions: a parameter is a flag, its default the flag's."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from eval.answers import read_answers
from eval.scores import Scores, report
from visatb.cli import ArgumentParser
from visatb.files import refuse_unwritable

Main = Callable[..., int | None]
Texts = Mapping[str, str | tuple[str, ...]]


def add_flags(parser: ArgumentParser, function: Callable[..., Any], texts: Texts) -> None:
    """Declare a flag for some parameters of a function.

    A parameter without a default is required, one whose default is False is a switch; the choices are those of a
    `Literal`, the type that of the default.

    Args:
        texts: parameter -> help, or (help, names of the flag, metavars of its values in capitals).
    """
    for name, declared in texts.items():
        text, *more = (declared,) if isinstance(declared, str) else declared
        parameter = inspect.signature(function).parameters[name]
        default, annotation = parameter.default, parameter.annotation
        settings: dict[str, Any] = {"dest": name, "help": text}
        if default is False:
            settings["action"] = "store_true"
        elif default is inspect.Parameter.empty:
            settings["required"] = True
        else:
            settings |= {"default": default} | ({} if default is None else {"type": type(default)})
        if get_origin(annotation) is Literal:
            settings["choices"] = get_args(annotation)
        metavars = tuple(word for word in more if not word.startswith("-"))
        if metavars:
            settings |= {"nargs": len(metavars), "metavar": metavars}
        names = [word for word in more if word.startswith("-")]
        parser.add_argument(*(names or [f"--{name.replace('_', '-')}"]), **settings)


def add_output_flags(parser: ArgumentParser, metric_file: bool = True) -> None:
    """The flags that name the files of scores."""
    if metric_file:
        parser.add_argument("--output", help="write the metric to this JSON file, which eval/overall.py reads")
    parser.add_argument("--per-record", help="write the score of every record to this JSON Lines file")


def refuse_clashes(outputs: Sequence[str | None], others: Mapping[str, Any]) -> None:
    """Refuse outputs that cannot be written, or that would replace a file which another flag names."""
    words = [word for value in others.values() for word in (value if isinstance(value, list) else [value])]
    refuse_unwritable(outputs, [word for word in words if isinstance(word, str) and os.path.isfile(word)])


def evaluator(
    script: str,
    description: str | None,
    score: Callable[..., Scores],
    prepare: Callable[..., dict[str, Any]] | None = None,
    more: str = "--output metrics.json",
    **texts: str,
) -> Main:
    """The `main` of a metric on annotation records.

    Args:
        script, more: file name of the command and further flags, for the example.
        description: what it computes.
        score: answers -> scores.
        prepare: (answer file, values of the metric's own flags) -> keywords of `score`; the flags as they are if None.
        texts: help of the metric's own flags, which are parameters of `prepare` or `score`.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        parser = ArgumentParser(
            description=description,
            epilog=f"example:\n  python eval/{script} -a answers/VQAv2-val-2k_my-model.json {more}",
        )
        add_flags(
            parser,
            read_answers,
            {
                "answers_file": ("answer file to score", "-a", "--answers-file", "--answer-file"),
                "question_file": "annotation file that was asked: refuse answers that are not exactly its records "
                "(without the flag: the file in the answer file's folder whose name fits, if there is one)",
                "key_by_position": "identify records by their position in the file, where ids repeat or are absent",
            },
        )
        add_output_flags(parser)
        add_flags(parser, prepare or score, texts)
        given = vars(parser.parse_args(argv))
        own = {name: given.pop(name) for name in texts}
        outputs = [given.pop("output"), given.pop("per_record")]
        refuse_clashes(outputs, given)
        answers = read_answers(**given)
        scores = score(answers.answers, **(prepare(answers.path, **own) if prepare else own))
        return report(scores, answers.source, *outputs)

    return main
