"""LLaVA's address of LLaVA-COCO's review (`eval.zero_shot.llavabench`); --output is the review file here."""

from llava.eval.eval_gpt_review_bench import review_command
from visatb.cli import run

main = review_command(__doc__, "llavacoco")

if __name__ == "__main__":
    run(main)
