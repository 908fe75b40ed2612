"""LLaVA's convert_gqa_for_eval: the file that GQA's official eval.py reads."""

from collections.abc import Sequence

from llava.eval.scorers.common import read_answers
from llava.eval.scorers.submissions import gqa_predictions
from visatb.cli import ArgumentParser, run
from visatb.files import refuse_unwritable, write_text


def main(argv: Sequence[str] | None = None) -> int:
    """The command, with LLaVA's flags."""
    parser = ArgumentParser(
        description=__doc__,
        epilog="example:\n  python scripts_visatb/eval/convert_gqa_for_eval.py --src answers.jsonl --dst upload.json",
    )
    parser.add_argument("--src", required=True, help="LLaVA's answer lines")
    parser.add_argument("--dst", required=True, help="file to be written")
    options = parser.parse_args(argv)
    refuse_unwritable([options.dst], [options.src])
    write_text(options.dst, gqa_predictions(read_answers(options.src)))
    return 0


if __name__ == "__main__":
    run(main)
