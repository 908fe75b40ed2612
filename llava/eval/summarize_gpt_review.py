"""The table of review files as LLaVA prints it: category, relative score, mean ratings of GPT-4 and model times 10."""

import sys
from collections.abc import Sequence
from pathlib import Path

from eval.zero_shot.llavabench import read_reviews, summarize, table_lines
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError

_PREFIXES = ("gpt4_text", "reviews_", "review_")


def main(argv: Sequence[str] | None = None) -> int:
    """The command, with LLaVA's flags."""
    parser = ArgumentParser(
        description=__doc__, epilog="example:\n  python -m llava.eval.summarize_gpt_review -f reviews/my-model.jsonl"
    )
    parser.add_argument("-d", "--dir", help="folder of the files; without -f those named review_*, gpt4_text*.jsonl")
    parser.add_argument("-f", "--files", nargs="*", help="review files")
    parser.add_argument("-i", "--ignore", nargs="*", type=int, default=[], help="question ids to leave out")
    options = parser.parse_args(argv)
    folder = Path(options.dir or ".")
    names = options.files or ([path.name for path in folder.glob("*.jsonl") if path.name.startswith(_PREFIXES)])
    if not names or (options.dir is None and not options.files):
        raise InputError("-f must name review files, or -d a folder that has some. Give one of them.")
    for name in sorted(names):
        reviews = [one for one in read_reviews(folder / name) if one.get("question_id") not in options.ignore]
        if not reviews:
            raise InputError(f"{folder / name}: no review is left. Check --ignore.")
        unread = sum(1 for one in reviews if min(one["tuple"]) < 0)
        if unread:
            print(f"note: {name}: {unread} reviews could not be read and count as -1, as in LLaVA", file=sys.stderr)
        title = Path(name).name.replace("gpt4_text_", "").removesuffix(".jsonl")
        print("\n".join([title, *table_lines(summarize(reviews)), "================================="]))
    return 0


if __name__ == "__main__":
    run(main)
