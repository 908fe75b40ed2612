"""The command lines of the zero-shot scorers and converters."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval.command import add_output_flags
from eval.zero_shot.answers import Answers, read_answers
from eval.zero_shot.definition import Evaluation
from visatb.cli import ArgumentParser
from visatb.files import refuse_unwritable, write_text


def scorer(
    module: str,
    description: str | None,
    evaluate: Callable[..., Evaluation],
    example: str,
    task: str,
    flags: Mapping[str, str] | Callable[[ArgumentParser], None],
    outputs: Sequence[str] = (),
) -> Callable[..., int]:
    """The `main` of a scorer.

    Args:
        module: its name, for the example.
        description: what it computes.
        evaluate: (answers, flags of the scorer by name) -> evaluation; answers are None without --answers-file.
        example: flags of the example.
        task: default of --task.
        flags: required flag -> help, beside --answers-file; or a function that declares all flags for what is read.
        outputs: names of those flags that name files to be written.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        parser = ArgumentParser(
            description=description,
            epilog=f"example:\n  python -m eval.zero_shot.{module} {example} "
            f"--output metrics/my-model/{task or 'LLaVA-Bench'}.json",
        )
        if callable(flags):
            flags(parser)
        else:
            add_answers_flag(parser, required=True)
            for flag, text in flags.items():
                parser.add_argument(flag, required=True, help=text)
        add_output_flags(parser)
        parser.add_argument("--task", default=task, help="name of the benchmark in the metric file")
        own = vars(parser.parse_args(argv))
        output, per_record, name = (own.pop(key) for key in ("output", "per_record", "task"))
        refuse_unwritable([output, per_record, *(own[key] for key in outputs)], _inputs(own, outputs))
        path = own.pop("answers_file", None)
        answers = None if path is None else read_answers(path)
        return evaluate(answers, **own).finish(output, per_record, name)

    return main


def add_answers_flag(parser: Any, **settings: Any) -> None:
    """--answers-file, and LLaVA's name for it; `settings` as in `add_argument`."""
    text = settings.pop("help", "LLaVA's answer lines to score")
    parser.add_argument("--answers-file", "--result-file", dest="answers_file", help=text, **settings)


def converter(
    script: str,
    description: str | None,
    example: str,
    flags: Mapping[str, str | tuple[str, str]],
    convert: Callable[..., int | None],
) -> Callable[..., int | None]:
    """The `main` of a converter of LLaVA's.

    Args:
        script, example: file name of the command, and flags of its example.
        description: what it writes.
        flags: flag -> help, or (help, default) for one that may be left out.
        convert: takes the flags by name.
    """

    def main(argv: Sequence[str] | None = None) -> int | None:
        parser = ArgumentParser(
            description=description, epilog=f"example:\n  python scripts_visatb/eval/{script}.py {example}"
        )
        for flag, declared in flags.items():
            text, default = (declared, None) if isinstance(declared, str) else declared
            parser.add_argument(flag, required=default is None, default=default, help=text)
        return convert(**vars(parser.parse_args(argv)))

    return main


def source_to_target(script: str, description: str | None, content: Callable[[Answers], str]) -> Callable[..., None]:
    """The `main` of a converter with LLaVA's flags --src and --dst: the answers as they are, without questions."""

    def convert(src: str, dst: str) -> None:
        refuse_unwritable([dst], [src])
        write_text(dst, content(read_answers(src)))

    flags = {"--src": "LLaVA's answer lines", "--dst": "file to be written"}
    return converter(script, description, "--src answers.jsonl --dst upload.json", flags, convert)


def _inputs(flags: Mapping[str, Any], outputs: Sequence[str]) -> list[str]:
    """The paths among the values of flags that name existing files."""
    values = [value for name, value in flags.items() if name not in outputs]
    words = [word for value in values for word in (value if isinstance(value, list) else [value])]
    return [word for word in words if isinstance(word, str) and os.path.isfile(word)]
