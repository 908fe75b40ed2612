"""The command lines of the zero-shot scorers and of LLaVA's converters."""

from collections.abc import Callable, Sequence

from eval.command import Main, Texts, add_flags, add_output_flags, refuse_clashes
from eval.zero_shot.answers import Answers, read_answers
from eval.zero_shot.definition import Evaluation
from visatb.cli import ArgumentParser
from visatb.files import refuse_unwritable, write_text

ANSWERS = ("LLaVA's answer lines to score", "--answers-file", "--result-file")


def scorer(
    module: str,
    description: str | None,
    example: str,
    task: str,
    evaluate: Callable[..., Evaluation],
    texts: Texts,
    *outputs: str,
    metric_file: bool = True,
) -> Main:
    """The `main` of a scorer.

    Args:
        module, example: its name, and flags of the example.
        description: what it computes.
        task: name in the metric file, the default of --task.
        evaluate: its parameters are flags; for `answers` those in the file that the flag names are read.
        texts: see `eval.command.add_flags`; ANSWERS is added unless answers are listed.
        outputs: parameters that name files to be written.
        metric_file: whether --output names the metric file; LLaVA's reviews have another file of that name.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        shared = {} if "answer_list" in texts else {"answers": ANSWERS}
        command = f"python -m eval.zero_shot.{module}" + " --answers-file answers.jsonl" * len(shared)
        parser = ArgumentParser(description=description, epilog=f"example:\n  {command} {example}")
        add_flags(parser, evaluate, shared | texts)
        add_output_flags(parser, metric_file)
        parser.add_argument("--task", default=task, help="name of the benchmark in the metric file")
        given = vars(parser.parse_args(argv))
        output, per_record, name = given.pop("output", None), given.pop("per_record"), given.pop("task")
        inputs = {key: value for key, value in given.items() if key not in outputs}
        refuse_clashes([output, per_record, *(given[key] for key in outputs)], inputs)
        if given.get("answers") is not None:
            given["answers"] = read_answers(given["answers"])
        return evaluate(**given).finish(output, per_record, name)

    return main


def converter(
    script: str, description: str | None, example: str, convert: Callable[..., int | None], **texts: str
) -> Main:
    """The `main` of a converter of LLaVA's: a function whose parameters are flags.

    Args:
        script, example: file name of the command, and flags of its example.
        description: what it writes.
        texts: see `eval.command.add_flags`.
    """

    def main(argv: Sequence[str] | None = None) -> int | None:
        address = f"python scripts_visatb/eval/{script}.py"
        parser = ArgumentParser(description=description, epilog=f"example:\n  {address} {example}")
        add_flags(parser, convert, texts)
        return convert(**vars(parser.parse_args(argv)))

    return main


def source_to_target(script: str, description: str | None, content: Callable[[Answers], str]) -> Main:
    """The `main` of a converter with LLaVA's flags --src and --dst: the answers as they are, without questions."""

    def convert(src: str, dst: str) -> None:
        refuse_unwritable([dst], [src])
        write_text(dst, content(read_answers(src)))

    texts = {"src": "LLaVA's answer lines", "dst": "file to be written"}
    return converter(script, description, "--src answers.jsonl --dst upload.json", convert, **texts)
