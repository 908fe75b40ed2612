"""LLaVA's convert_vqav2_for_submission: the file that VQAv2's server takes, in LLaVA's folders.

Reads `answers/<split>/<ckpt>/merge.jsonl` and writes `answers_upload/<split>/<ckpt>.json` under --dir. The answers must
be exactly those to `<split>.jsonl`; the other questions of llava_vqav2_mscoco_test2015.jsonl get an empty answer.
"""

from pathlib import Path

from eval.zero_shot import vqav2
from eval.zero_shot.answers import read_answers
from eval.zero_shot.command import converter
from visatb.cli import run


def _convert(ckpt: str, split: str, dir: str = "./playground/data/eval/vqav2") -> int:
    folder = Path(dir)
    answers = read_answers(folder / "answers" / split / ckpt / "merge.jsonl")
    upload = str(folder / "answers_upload" / split / f"{ckpt}.json")
    everything = str(folder / "llava_vqav2_mscoco_test2015.jsonl")
    return vqav2.submit(answers, str(folder / f"{split}.jsonl"), upload, everything).finish()


main = converter(
    "convert_vqav2_for_submission",
    __doc__,
    "--split llava_vqav2_mscoco_test-dev2015 --ckpt my-model",
    _convert,
    dir="folder of the benchmark",
    ckpt="name of the model's folder of answers",
    split="name of the question file, without .jsonl",
)

if __name__ == "__main__":
    run(main)
