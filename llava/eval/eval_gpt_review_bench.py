"""LLaVA's address of LLaVA-Bench's review (`eval.zero_shot.llavabench`); --output is the review file here."""

import sys
from collections.abc import Sequence

from eval.zero_shot import llavabench
from visatb.cli import run


def main(argv: Sequence[str] | None = None, benchmark: str = "llavabench") -> int:
    """The command, with LLaVA's flags."""
    given = sys.argv[1:] if argv is None else argv
    renamed = ["--reviews-file" + word.removeprefix("--output") if _is_output(word) else word for word in given]
    return llavabench.main(["--benchmark", benchmark, *renamed])


def _is_output(word: str) -> bool:
    return word.partition("=")[0] == "--output"


if __name__ == "__main__":
    run(main)
