"""LLaVA-Bench (in the Wild) and LLaVA-COCO: a language model rates each answer against GPT-4's.

Reads LLaVA's files (questions.jsonl, context.jsonl, answers_gpt4.jsonl, rule.json, the model's answers), lets
`eval.judge` ask an OpenAI-compatible endpoint, writes LLaVA's review lines and prints its table: category, relative
score, mean ratings of GPT-4 and of the model times ten. Replies are kept beside the reviews; only what has no readable
reply is asked again.
Definition: https://github.com/haotian-liu/LLaVA/blob/main/docs/LLaVA_Bench.md.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from eval.answers import Answer
from eval.judge import JUDGE_FLAGS, judged_by, parse_ratings, prompt_of
from eval.judge import score as judge_score
from eval.judge_client import Judge, ReplyFile, first_readable
from eval.scores import Scores
from eval.zero_shot.answers import Answers, by_id, get, in_order_of, outcome, read_answers, read_lines
from eval.zero_shot.command import scorer
from eval.zero_shot.definition import COCO, Evaluation, Place, ZeroShot
from visatb.cli import run
from visatb.errors import InputError
from visatb.records import Record

# Of each benchmark: its name in the metric file, and what stands before a question's category in rule.json.
RULES = {"llavabench": ("LLaVA-Bench", "llava_bench_"), "llavacoco": ("LLaVA-COCO", "")}

Benchmark = Literal["llavabench", "llavacoco"]


def cases_of(
    questions: Mapping[str, Record], references: Answers, answers: Answers, prefix: str, source: str | os.PathLike
) -> list[Answer]:
    """Every question with both answers, as `eval.judge` wants them, in the order of the questions.

    Args:
        questions: LLaVA's question lines (`image`, `text`, `category`) by question_id.
        prefix: what stands before the category in rule.json.
    """
    columns = [in_order_of(list(questions), lines, source) for lines in (references, answers)]
    cases = []
    for n, (question, *lines) in enumerate(zip(questions.values(), *columns, strict=True)):
        where = f"{source}: question_id {question['question_id']!r}"
        record = {
            "image": get(question, "image", str, where),
            "category": prefix + get(question, "category", str, where),
            "conversations": [{"value": get(question, "text", str, where)}, {}],
            "answer_ids": [line.record.get("answer_id", line.question_id) for line in lines],
        }
        cases.append(Answer(n, question["question_id"], where, lines[0].text, lines[1].text, record))
    return cases


def review(
    cases: Sequence[Answer],
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
    scores = judge_score(cases, judge, replies, rules, contexts, concurrency)
    return [
        {
            "id": n,
            "question_id": case.identifier,
            **dict(zip(("answer1_id", "answer2_id"), case.record["answer_ids"], strict=True)),
            "category": case.record["category"],
            "content": first_readable(replies.of(judge, prompt_of(case, rules, contexts)), parse_ratings)[0],
            "tuple": [rated["reference_rating"], rated["rating"]],
        }
        for n, (case, rated) in enumerate(zip(cases, scores["per_record"], strict=True), 1)
    ]


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


def evaluate(
    question: str,
    context: str,
    answer_list: Sequence[str | Answers],
    reviews_file: str,
    rule: str | None = None,
    benchmark: Benchmark = "llavabench",
    judge_model: str = "gpt-4-0314",
    judge_url: str | None = None,
    judge_max_tokens: int = 1024,
    concurrency: int = 4,
) -> Evaluation:
    """The scores and the review lines; replies are kept beside the file of reviews.

    Args:
        question, context, rule: LLaVA's files.
        answer_list: GPT-4's answers and the model's, or their files.
        reviews_file: where review lines go.
        benchmark: which rules are meant.
        judge_model, judge_url, judge_max_tokens, concurrency: see `eval.judge.judged_by`.

    Raises:
        InputError, JudgeError: as `review`.
    """
    task, prefix = RULES[benchmark]
    needed = judged_by(
        Path(reviews_file),
        judge_model,
        judge_url,
        judge_max_tokens=judge_max_tokens,
        rule_file=rule,
        context_file=context,
        concurrency=concurrency,
    )
    references, answers = (one if isinstance(one, Answers) else read_answers(one) for one in answer_list)
    reviews = review(cases_of(by_id(read_lines(question)), references, answers, prefix, question), **needed)
    content = "".join(json.dumps(one) + "\n" for one in reviews)
    return Evaluation(replace(answers.source, task=task), score(reviews), {reviews_file: content})


def _reviewed(benchmark: Benchmark, question: str, context: str, reference: str) -> Any:
    def evaluations(place: Place, answers: Answers) -> list[Evaluation]:
        paths = {"question": place.data(question), "context": place.data(context), "rule": place.data("rule.json")}
        paths["reviews_file"] = place.made("reviews/{model}.jsonl")
        pair = (place.data(reference), answers)
        return [evaluate(**paths, answer_list=pair, benchmark=benchmark, **place.judge)]

    return evaluations


def _nothing(place: Place, answers: Answers) -> list[Evaluation]:
    return []


_LLAVA = "https://github.com/haotian-liu/LLaVA"
_RULE = f"{_LLAVA}/blob/main/llava/eval/table/rule.json"
_WILD_SITE = "https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild"
_COCO_QA = f"{_LLAVA}/tree/main/playground/data/coco2014_val_qa_eval"
_BOXES = "caps_boxes_coco2014_val_80.jsonl"
_WILD = ZeroShot(
    "",
    ("llava-bench-in-the-wild",),
    "questions.jsonl",
    "images",
    {"questions.jsonl": _WILD_SITE, "images": _WILD_SITE},
    _nothing,
    max_new_tokens=1024,
)
_COCO = ZeroShot(
    "",
    ("coco2014_val_qa_eval",),
    "qa90_questions.jsonl",
    "val2014",
    {"qa90_questions.jsonl": _COCO_QA, "val2014": COCO.format("val2014")},
    _nothing,
    reader_options={"image_prefix": "COCO_val2014_"},
    max_new_tokens=1024,
)
BENCHMARKS = {
    "llavabench": _WILD,
    "llavabench_review": replace(
        _WILD,
        task="LLaVA-Bench",
        needs={**_WILD.needs, "context.jsonl": _WILD_SITE, "answers_gpt4.jsonl": _WILD_SITE, "rule.json": _RULE},
        evaluate=_reviewed("llavabench", "questions.jsonl", "context.jsonl", "answers_gpt4.jsonl"),
        judged=True,
    ),
    "llavacoco": _COCO,
    "llavacoco_review": replace(
        _COCO,
        task="LLaVA-COCO",
        needs={
            **_COCO.needs,
            "qa90_gpt4_answer.jsonl": _COCO_QA,
            _BOXES: f"{_LLAVA}/blob/main/llava/eval/table/{_BOXES}",
            "rule.json": _RULE,
        },
        evaluate=_reviewed("llavacoco", "qa90_questions.jsonl", _BOXES, "qa90_gpt4_answer.jsonl"),
        judged=True,
    ),
}


FLAGS = JUDGE_FLAGS | {
    "question": ("LLaVA's questions", "-q", "--question", "--question-file"),
    "context": ("what is known of each image, in LLaVA's format", "-c", "--context"),
    "answer_list": ("GPT-4's answers, then yours", "-a", "--answer-list", "REFERENCE", "MODEL"),
    "rule": ("LLaVA's rule.json; a rule of our own for all if left out", "-r", "--rule"),
    "reviews_file": ("review lines (JSON Lines) to be written", "-o", "--reviews-file"),
    "benchmark": "which rules are meant",
    "judge_max_tokens": ("longest reply of the judge", "--max-tokens"),
}
EXAMPLE = (
    "--question questions.jsonl --context context.jsonl --rule rule.json --answer-list gpt4.jsonl my-model.jsonl "
    "--reviews-file reviews/my-model.jsonl"
)
main = scorer("llavabench", __doc__, EXAMPLE, "", evaluate, FLAGS, "reviews_file")

if __name__ == "__main__":
    run(main)
