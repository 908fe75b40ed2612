"""Files that the official servers and notebooks take, made of LLaVA's answer lines: VQAv2, VizWiz, GQA, MM-Vet, SEED.

MMBench's is a table: see `eval.zero_shot.mmbench`. MME's `<subtask>.txt` files: see `eval.zero_shot.mme`.
"""

from collections.abc import Sequence

from eval.zero_shot import gqa, mmvet, seed, vizwiz, vqav2
from eval.zero_shot.answers import read_answers
from visatb.cli import ArgumentParser, run

# The names that these functions had when they stood here.
gqa_predictions, mmvet_answers = gqa.predictions, mmvet.graded_answers
mmvet_submission, seed_submission = mmvet.upload, seed.upload
vizwiz_submission, vqav2_submission = vizwiz.upload, vqav2.upload

_MODULES = {"vqav2": vqav2, "vizwiz": vizwiz, "gqa": gqa, "mmvet": mmvet, "seed": seed}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = ArgumentParser(
        description=__doc__,
        epilog="example:\n  python -m eval.zero_shot.submissions mmvet --answers-file answers.jsonl "
        "--question-file llava-mm-vet.jsonl --output results/my-model.json",
    )
    parser.add_argument("benchmark", choices=list(_MODULES), help="whose server takes it")
    names = ("--answers-file", "--result-file")
    parser.add_argument(*names, dest="answers_file", required=True, help="LLaVA's answer lines")
    parser.add_argument("--question-file", required=True, help="LLaVA's question lines; for seed SEED-Bench.json")
    parser.add_argument("--all-question-file", help="vqav2: question lines of the whole test split (test2015)")
    parser.add_argument("--output", required=True, help="file to be uploaded")
    options = parser.parse_args(argv)
    more = {"all_question_file": options.all_question_file} if options.benchmark == "vqav2" else {}
    answers = read_answers(options.answers_file)
    return _MODULES[options.benchmark].submit(answers, options.question_file, options.output, **more).finish()


if __name__ == "__main__":
    run(main)
