"""LLaVA's convert_gqa_for_eval: the file that GQA's official eval.py reads."""

from eval.zero_shot.command import source_to_target
from eval.zero_shot.gqa import predictions
from visatb.cli import run

main = source_to_target("convert_gqa_for_eval", __doc__, predictions)

if __name__ == "__main__":
    run(main)
