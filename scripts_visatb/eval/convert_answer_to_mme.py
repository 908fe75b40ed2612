"""LLaVA's convert_answer_to_mme: `<subtask>.txt` files for MME's official calculation.py, in LLaVA's folders.

Reads `answers/<experiment>.jsonl` and writes `eval_tool/answers/<experiment>/` under --dir; prints the scores.
"""

from pathlib import Path

from eval.zero_shot import mme
from eval.zero_shot.answers import read_answers
from eval.zero_shot.command import converter
from visatb.cli import run


def _convert(experiment: str, dir: str = "./playground/data/eval/MME") -> int:
    folder = Path(dir)
    answers = read_answers(folder / "answers" / f"{experiment}.jsonl")
    questions, results = folder / "MME_Benchmark_release_version", folder / "eval_tool" / "answers" / experiment
    return mme.evaluate(answers, str(questions), str(results)).finish()


main = converter(
    "convert_answer_to_mme",
    __doc__,
    "--experiment my-model",
    _convert,
    dir="folder of the benchmark",
    experiment="name of the answers file, without .jsonl",
)

if __name__ == "__main__":
    run(main)
