"""LLaVA's convert_mmvet_for_eval: the file that MM-Vet's official evaluator reads."""

from eval.zero_shot.command import source_to_target
from eval.zero_shot.mmvet import upload
from visatb.cli import run

main = source_to_target("convert_mmvet_for_eval", __doc__, upload)

if __name__ == "__main__":
    run(main)
