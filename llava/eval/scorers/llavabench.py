"""LLaVA-Bench (in the Wild) and LLaVA-COCO: a language model rates each answer against GPT-4's.

Reads LLaVA's files (questions.jsonl, context.jsonl, answers_gpt4.jsonl, rule.json, the model's answers), lets
`eval.judge` ask an OpenAI-compatible endpoint, writes LLaVA's review lines and prints its table: category, relative
score, mean ratings of GPT-4 and of the model times ten. Replies are kept beside the reviews; only what has no readable
reply is asked again.
Definition: https://github.com/haotian-liu/LLaVA/blob/main/docs/LLaVA_Bench.md.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.answers import Answer
from eval.judge import parse_ratings, prompt_of, read_contexts, read_rules
from eval.judge import score as judge_score
from eval.judge_client import DEFAULT_URL, URL_VARIABLE, Judge, JudgeError, ReplyFile, first_readable
from llava.eval.scorers.common import (
    AnswerLine,
    Answers,
    Scores,
    add_outputs,
    by_id,
    get,
    in_order_of,
    outcome,
    read_answers,
    read_lines,
    report,
)
from visatb.cli import ArgumentParser, one_line, run
from visatb.errors import InputError
from visatb.files import refuse_unwritable, write_text
from visatb.records import Record

# Of each benchmark: its name in the metric file, and what stands before a question's category in rule.json.
BENCHMARKS = {"llavabench": ("LLaVA-Bench", "llava_bench_"), "llavacoco": ("LLaVA-COCO", "")}


@dataclass(frozen=True)
class Case:
    """One question with both answers.

    Attributes:
        question_id: as in LLaVA's question line.
        category: its name in rule.json.
        reference, answer: GPT-4's line and the model's.
        asked: both, as `eval.judge` wants them.
    """

    question_id: str | int
    category: str
    reference: AnswerLine
    answer: AnswerLine
    asked: Answer


def cases_of(
    questions: Mapping[str, Record], references: Answers, answers: Answers, prefix: str, source: str | os.PathLike
) -> list[Case]:
    """Every question with both answers, in the order of the questions.

    Args:
        questions: LLaVA's question lines (`image`, `text`, `category`) by question_id.
        references, answers: one line each to every question.
        prefix: what stands before the category in rule.json.
        source: file of the questions, for messages.

    Raises:
        InputError: missing or further answers, a question of another shape.
    """
    pairs = zip(
        in_order_of(list(questions), references, source), in_order_of(list(questions), answers, source), strict=True
    )
    cases = []
    for n, (question, (reference, answer)) in enumerate(zip(questions.values(), pairs, strict=True)):
        where = f"{source}: question_id {question['question_id']!r}"
        category = prefix + get(question, "category", str, where)
        turns = [{"value": get(question, "text", str, where)}, {}]
        record = {"image": get(question, "image", str, where), "category": category, "conversations": turns}
        asked = Answer(n, question["question_id"], where, reference.text, answer.text, record)
        cases.append(Case(question["question_id"], category, reference, answer, asked))
    return cases


def review(
    cases: Sequence[Case],
    judge: Judge,
    replies: ReplyFile,
    rules: Mapping[str, Mapping[str, str]],
    contexts: Mapping[str, str],
    concurrency: int = 4,
) -> list[Record]:
    """LLaVA's review lines: id, question_id, answer1_id, answer2_id, category, content (the reply), tuple (ratings).

    An empty answer is not sent: it is rated 1 against the mean of the others' references, and its content is "".

    Raises:
        InputError, JudgeError: as `eval.judge.score`.
    """
    scores = judge_score([case.asked for case in cases], judge, replies, rules, contexts, concurrency)
    reviews = []
    for n, (case, rated) in enumerate(zip(cases, scores["per_record"], strict=True), 1):
        said = replies.of(judge, prompt_of(case.asked, rules, contexts))
        reviews.append(
            {
                "id": n,
                "question_id": case.question_id,
                "answer1_id": case.reference.record.get("answer_id", case.reference.question_id),
                "answer2_id": case.answer.record.get("answer_id", case.answer.question_id),
                "category": case.category,
                "content": first_readable(said, parse_ratings)[0],
                "tuple": [rated["reference_rating"], rated["rating"]],
            }
        )
    return reviews


def read_reviews(path: str | os.PathLike) -> list[Record]:
    """The lines of a review file, ours or LLaVA's: `tuple` (or, in old files, `score`) holds the two ratings."""
    reviews = []
    for where, record in read_lines(path):
        pair = record.get("tuple", record.get("score"))
        if not isinstance(pair, list) or len(pair) != 2 or not all(_is_rating(rating) for rating in pair):
            raise InputError(f"{where}: tuple must be two ratings up to 10, got {pair!r:.40}. Review again.")
        reviews.append(record | {"tuple": pair})
    return reviews


def summarize(reviews: Iterable[Record]) -> dict[str, dict[str, float | None]]:
    """Category (and "all") -> relative score in percent, mean ratings of reference and model; sorted by name.

    A category whose references are all rated 0 has no relative score (None).
    """
    pairs: dict[str, list[Sequence[float]]] = {}
    for one in reviews:
        for name in {"all", str(one.get("category", "all"))}:
            pairs.setdefault(name, []).append(one["tuple"])
    table = {}
    for name in sorted(pairs):
        reference, model = (sum(column) / len(pairs[name]) for column in zip(*pairs[name], strict=True))
        if reference < 0 or (name == "all" and reference == 0):
            raise InputError(f"category {name!r}: the references' mean rating must be above 0. Review again.")
        share = 100 * model / reference if reference else None
        table[name] = {"relative_score": share, "reference": reference, "model": model}
    return table


def table_lines(table: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """The lines that LLaVA's summarize_gpt_review prints, which rounds the means to 3 places first."""
    lines = []
    for name, row in table.items():
        reference, model = round(row["reference"], 3), round(row["model"], 3)
        share = round(model / reference * 100, 1) if reference else "n/a"
        lines.append(f"{name} {share} {round(reference * 10, 1)} {round(model * 10, 1)}")
    return lines


def score(reviews: Sequence[Record]) -> Scores:
    """The relative score in percent, with the table of all categories."""
    table = summarize(reviews)
    entries = [
        {"question_id": one.get("question_id"), "score": one["tuple"][1], "malformed": not one.get("content"), **one}
        for one in reviews
    ]
    unread = "are empty, not sent and rated 1"
    return outcome("relative_score", table["all"]["relative_score"], entries, table_lines(table), unread, table=table)


def _is_rating(value: Any) -> bool:
    """Whether a value is a rating; LLaVA writes -1 for a reply that it could not read."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1 <= value <= 10


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        description=__doc__,
        epilog="example:\n  python -m llava.eval.scorers.llavabench --question questions.jsonl --context context.jsonl "
        "--rule rule.json --answer-list gpt4.jsonl my-model.jsonl --reviews-file reviews/my-model.jsonl",
    )
    parser.add_argument("-q", "--question", "--question-file", dest="question", required=True, help="LLaVA's questions")
    parser.add_argument("-c", "--context", required=True, help="what is known of each image, in LLaVA's format")
    parser.add_argument(
        "-a",
        "--answer-list",
        nargs=2,
        required=True,
        metavar=("REFERENCE", "MODEL"),
        help="GPT-4's answers, then yours",
    )
    parser.add_argument("-r", "--rule", help="LLaVA's rule.json; a rule of our own for all if left out")
    parser.add_argument("-o", "--reviews-file", required=True, help="review lines (JSON Lines) to be written")
    parser.add_argument("--benchmark", choices=list(BENCHMARKS), default="llavabench", help="which rules are meant")
    parser.add_argument("--judge-model", default="gpt-4-0314", help="name of the judging model at the endpoint")
    parser.add_argument(
        "--judge-url", default=os.environ.get(URL_VARIABLE) or DEFAULT_URL, help=f"endpoint (or {URL_VARIABLE})"
    )
    parser.add_argument("--max-tokens", type=int, default=1024, help="longest reply of the judge")
    parser.add_argument("--concurrency", type=int, default=4, help="requests at a time")
    add_outputs(parser, "")
    return parser


def _reviewed(options: argparse.Namespace, cases: Sequence[Case], replies: ReplyFile) -> list[Record]:
    judge = Judge(options.judge_model, options.judge_url, max_tokens=options.max_tokens)
    return review(cases, judge, replies, read_rules(options.rule), read_contexts(options.context), options.concurrency)


def main(argv: Sequence[str] | None = None) -> int:
    """The command, with the flags of LLaVA's eval_gpt_review_bench but for --output, which is the metric file here."""
    options = _parser().parse_args(argv)
    if options.concurrency < 1:
        raise InputError(f"--concurrency must be at least 1, got {options.concurrency}. Raise it.")
    task, prefix = BENCHMARKS[options.benchmark]
    options.task = options.task or task
    refuse_unwritable(
        [options.reviews_file, options.output, options.per_record],
        [options.question, options.context, options.rule, *options.answer_list],
    )
    references, answers = (read_answers(path) for path in options.answer_list)
    cases = cases_of(by_id(read_lines(options.question)), references, answers, prefix, options.question)
    Path(options.reviews_file).parent.mkdir(parents=True, exist_ok=True)
    replies = ReplyFile(Path(options.reviews_file).with_suffix(".judge.jsonl"))
    try:
        reviews = _reviewed(options, cases, replies)
    except JudgeError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    write_text(options.reviews_file, "".join(json.dumps(one) + "\n" for one in reviews))
    return report(score(reviews), answers.generator, answers.path, options)


if __name__ == "__main__":
    run(main)
