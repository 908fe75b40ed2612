"""LLaVA's address of LLaVA-Bench's review (`eval.zero_shot.llavabench`); --output is the review file here."""

from functools import partial

from eval.command import Main
from eval.zero_shot.command import scorer
from eval.zero_shot.llavabench import EXAMPLE, FLAGS, Benchmark, evaluate
from visatb.cli import run


def review_command(description: str | None, benchmark: Benchmark) -> Main:
    """The `main` of one of LLaVA's two review scripts."""
    flags = FLAGS | {"reviews_file": ("review lines (JSON Lines) to be written", "-o", "--reviews-file", "--output")}
    asked = partial(evaluate, benchmark=benchmark)
    return scorer("llavabench", description, EXAMPLE, "", asked, flags, "reviews_file", metric_file=False)


main = review_command(__doc__, "llavabench")

if __name__ == "__main__":
    run(main)
