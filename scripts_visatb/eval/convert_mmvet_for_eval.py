"""LLaVA's convert_mmvet_for_eval: the file that MM-Vet's official evaluator reads."""

from functools import partial

from llava.eval.scorers.submissions import convert_command, mmvet_submission
from visatb.cli import run

main = partial(convert_command, mmvet_submission, "convert_mmvet_for_eval.py", __doc__)

if __name__ == "__main__":
    run(main)
