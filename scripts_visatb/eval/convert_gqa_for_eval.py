"""LLaVA's convert_gqa_for_eval: the file that GQA's official eval.py reads."""

from functools import partial

from llava.eval.scorers.submissions import convert_command, gqa_predictions
from visatb.cli import run

main = partial(convert_command, gqa_predictions, "convert_gqa_for_eval.py", __doc__)

if __name__ == "__main__":
    run(main)
