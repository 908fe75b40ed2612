"""LLaVA's address of LLaVA-COCO's review (`eval.zero_shot.llavabench`); --output is the review file here."""

from functools import partial

from llava.eval.eval_gpt_review_bench import main as _main
from visatb.cli import run

main = partial(_main, benchmark="llavacoco")

if __name__ == "__main__":
    run(main)
