"""Files that the official servers and notebooks take, made of LLaVA's answer lines: VQAv2, VizWiz, GQA, MM-Vet, SEED.

MMBench's is a table: see `llava.eval.scorers.mmbench`. MME's `<subtask>.txt` files: see `llava.eval.scorers.mme`.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llava.eval.scorers.common import Answers, by_id, get, in_order_of, numbered, read_answers, read_lines, read_object
from llava.eval.scorers.gqa import prediction_of
from llava.eval.scorers.vqa_text import normalize_m4c
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import refuse_unwritable, write_text

BENCHMARKS = ("vqav2", "vizwiz", "gqa", "mmvet", "seed")

Questions = Mapping[str, Mapping[str, Any]]


def vqav2_submission(
    answers: Answers, questions: Questions, source: str | os.PathLike, all_questions: Questions | None = None
) -> str:
    """What VQAv2's server takes: [{"question_id", "answer"}], answers in the form of `normalize_m4c`.

    Args:
        answers: one to each question.
        questions: what was asked, by question_id.
        source: its file, for messages.
        all_questions: what the server wants; those that were not asked (all of test beside test-dev) get "".
    """
    lines = {line.key: line for line in in_order_of(list(questions), answers, source)}
    wanted = all_questions or questions
    strange = next((key for key in lines if key not in wanted), None)
    if strange is not None:
        raise InputError(f"{source}: question_id {strange!r} is not among all questions. Give files of one split.")
    return json.dumps(
        [
            {"question_id": record["question_id"], "answer": normalize_m4c(lines[key].text) if key in lines else ""}
            for key, record in wanted.items()
        ]
    )


def vizwiz_submission(answers: Answers, questions: Questions, source: str | os.PathLike) -> str:
    """What VizWiz' server takes: [{"image", "answer"}], answers in the form of `normalize_m4c`."""
    lines = in_order_of(list(questions), answers, source)
    images = [get(questions[line.key], "image", str, f"{source}: question_id {line.key}") for line in lines]
    return json.dumps(
        [{"image": image, "answer": normalize_m4c(line.text)} for image, line in zip(images, lines, strict=True)]
    )


def gqa_predictions(answers: Answers) -> str:
    """What GQA's official eval.py reads: [{"questionId", "prediction"}]."""
    return json.dumps(
        [{"questionId": line.question_id, "prediction": prediction_of(line.text)} for line in _unique(answers)]
    )


def mmvet_submission(answers: Answers) -> str:
    """What MM-Vet's evaluator takes: {"v1_<question_id>": answer}."""
    return json.dumps(mmvet_answers(answers), indent=2)


def mmvet_answers(answers: Answers) -> dict[str, str]:
    """The answers by the ids of MM-Vet's evaluator."""
    return {f"v1_{line.question_id}": line.text for line in _unique(answers)}


def seed_submission(answers: Answers, questions: Any, source: str | os.PathLike) -> str:
    """What SEED-Bench's leaderboard takes: a line {"question_id", "prediction"} for every question.

    Args:
        answers: one to each question.
        questions: `questions` of SEED-Bench.json.
        source: that file, for messages.
    """
    by_key = by_id(numbered(questions, source))
    lines = in_order_of(list(by_key), answers, source)
    rows = ({"question_id": by_key[line.key]["question_id"], "prediction": line.text} for line in lines)
    return "".join(json.dumps(row) + "\n" for row in rows)


def _unique(answers: Answers) -> tuple:
    """The lines, if no question is answered twice."""
    in_order_of(list(dict.fromkeys(line.key for line in answers.lines)), answers, answers.path)
    return answers.lines


def _content(options: Any, answers: Answers) -> str:
    """The submission that the flags ask for."""
    if options.benchmark == "seed":
        return seed_submission(answers, read_object(options.question_file).get("questions"), options.question_file)
    questions = by_id(read_lines(options.question_file))
    if options.benchmark == "vqav2":
        everything = options.all_question_file and by_id(read_lines(options.all_question_file))
        return vqav2_submission(answers, questions, options.question_file, everything)
    if options.benchmark == "vizwiz":
        return vizwiz_submission(answers, questions, options.question_file)
    in_order_of(list(questions), answers, options.question_file)
    return gqa_predictions(answers) if options.benchmark == "gqa" else mmvet_submission(answers)


def convert_command(
    submission: Callable[[Answers], str], script: str, description: str | None, argv: Sequence[str] | None = None
) -> int:
    """A converter of LLaVA's with its flags --src and --dst: the answers as they are, beside no questions.

    Args:
        submission: `gqa_predictions` or `mmvet_submission`.
        script: file name of the command, for the example.
        description: what it writes.
    """
    parser = ArgumentParser(
        description=description,
        epilog=f"example:\n  python scripts_visatb/eval/{script} --src answers.jsonl --dst upload.json",
    )
    parser.add_argument("--src", required=True, help="LLaVA's answer lines")
    parser.add_argument("--dst", required=True, help="file to be written")
    options = parser.parse_args(argv)
    refuse_unwritable([options.dst], [options.src])
    write_text(options.dst, submission(read_answers(options.src)))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = ArgumentParser(
        description=__doc__,
        epilog="example:\n  python -m llava.eval.scorers.submissions mmvet --answers-file answers.jsonl "
        "--question-file llava-mm-vet.jsonl --output results/my-model.json",
    )
    parser.add_argument("benchmark", choices=BENCHMARKS, help="whose server takes it")
    parser.add_argument(
        "--answers-file", "--result-file", dest="answers_file", required=True, help="LLaVA's answer lines"
    )
    parser.add_argument("--question-file", required=True, help="LLaVA's question lines; for seed SEED-Bench.json")
    parser.add_argument("--all-question-file", help="vqav2: question lines of the whole test split (test2015)")
    parser.add_argument("--output", required=True, help="file to be uploaded")
    options = parser.parse_args(argv)
    refuse_unwritable([options.output], [options.answers_file, options.question_file, options.all_question_file])
    write_text(options.output, _content(options, read_answers(options.answers_file)))
    print(options.output)
    return 0


if __name__ == "__main__":
    run(main)
