"""Answers in free form, rated by a language model against the reference answer (LLaVA-Bench's relative score).

The judge reads the question, what is known of the image as text, the reference answer and the model's, and rates both
from 1 to 10. The score is 100 times the model's sum of ratings over the reference's, as LLaVA-Bench reports it
(https://github.com/haotian-liu/LLaVA/blob/main/docs/LLaVA_Bench.md). Any OpenAI-compatible endpoint serves; the key is
read from OPENAI_API_KEY. Replies are kept beside the answer file; only what has no readable reply is asked again.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.answers import Answer
from eval.command import evaluator
from eval.judge_client import DEFAULT_URL, Judge, JudgeError, ReplyFile, collect
from eval.registry import JUDGE, metric
from eval.scores import Entry, Scores, entry, scores_of
from visatb.cli import run
from visatb.endpoint import URL_VARIABLE, excerpt
from visatb.errors import InputError
from visatb.files import read_json
from visatb.records import IMAGE_TOKEN, image_names, read_records

CATEGORY = "default"
RULES = {
    CATEGORY: {
        "role": "Assistant",
        "prompt": (
            "Above are a question about an image and the answers of two assistants. You cannot see the image; what is "
            "known of it is given as text. Judge how helpful, relevant, accurate and detailed each answer is. Rate "
            "each from 1 (worst) to 10 (best).\nWrite the two ratings on the first line, the first assistant's first, "
            "with a space between them and nothing else. From the second line on explain your ratings, without regard "
            "to the order in which the answers were given."
        ),
    }
}
_MARKUP = re.compile(r"[*_`#]")
_RATING = r"(\d+(?:\.\d+)?)[^\S\n]*(?:/[^\S\n]*10)?\.?"
_RATINGS = re.compile(rf"\s*{_RATING}(?:[^\S\n]|[,;])+{_RATING}\s*(?:\n|$)", re.ASCII)
_SYSTEM = "You are a careful and impartial reviewer of answers about images."


def parse_ratings(reply: str) -> tuple[float, float] | None:
    """The ratings of reference and model on the first line of a reply; None if it has no two numbers from 0 to 10.

    Markdown (`**8 7**`), `8/10` and a period behind a number are read over. A judge asked for 1 to 10 also says 0.
    """
    match = _RATINGS.match(_MARKUP.sub("", reply))
    if match is None:
        return None
    first, second = float(match[1]), float(match[2])
    return (first, second) if first <= 10 and second <= 10 else None


def review_prompt(answer: Answer, rule: Mapping[str, str], context: str) -> list[dict[str, str]]:
    """The chat messages that ask for one rating, laid out as LLaVA's reviews.

    Args:
        answer: with question, reference (truth) and prediction.
        rule: role (what the answering side is called) and prompt (how to rate).
        context: what is known of the image, "" if nothing.
    """
    question = answer.question.replace(IMAGE_TOKEN, "").strip()
    role = rule["role"]
    parts = [f"[Context]\n{context}"] if context else []
    parts += [f"[Question]\n{question}"]
    for n, text in ((1, answer.truth), (2, answer.prediction)):
        parts += [f"[{role} {n}]\n{text}\n\n[End of {role} {n}]"]
    parts += [f"[System]\n{rule['prompt']}"]
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "\n\n".join(parts)}]


def read_rules(path: str | os.PathLike | None) -> dict[str, dict[str, str]]:
    """Rules by category, in the format of LLaVA's rule.json: {category: {"role": ..., "prompt": ...}}.

    Raises:
        InputError: another shape.
    """
    if path is None:
        return RULES
    content = read_json(path)
    whole = isinstance(content, dict) and all(
        isinstance(rule, dict) and all(isinstance(rule.get(key), str) for key in ("role", "prompt"))
        for rule in content.values()
    )
    if not whole or not content:
        raise InputError(f'{path}: must be {{"<category>": {{"role": text, "prompt": text}}}}. Fix the file.')
    return content


def read_contexts(path: str | os.PathLike | None) -> dict[str, str]:
    """What is known of each image as text: image name -> context.

    The format is LLaVA-Bench's: records with `image`, and `caption` or `captions` (text or list) and `instances`
    (`category` and `bbox` each).
    """
    contexts = {}
    for n, record in enumerate(read_records(path) if path is not None else []):
        image = record.get("image")
        if not isinstance(image, str):
            raise InputError(f"{path}: record {n}: image must be a file name. Fix the record.")
        captions = record.get("captions", record.get("caption", []))
        lines = [captions] if isinstance(captions, str) else captions
        boxes = record.get("instances", [])
        try:
            parts = ["\n".join(lines), "\n".join(f"{box['category']}: {box['bbox']}" for box in boxes)]
        except (TypeError, KeyError):
            raise InputError(f"{path}: record {n}: captions must be texts, instances need category and bbox.") from None
        contexts[image] = "\n\n".join(part for part in parts if part)
    return contexts


@metric("judge", "relative_score", range=(0.0, math.inf), title="judged", deviation=0.5, needs=JUDGE)
def score(
    answers: Sequence[Answer],
    judge: Judge,
    replies: ReplyFile,
    rules: Mapping[str, Mapping[str, str]] = RULES,
    contexts: Mapping[str, str] | None = None,
    concurrency: int = 4,
) -> Scores:
    """The relative score of the predictions, in percent of the references': the mean of the records' own.

    A record's own score is 100 * its rating / the mean rating of the references. A prediction that is absent or blank
    is not sent and rated 1, the lowest, against the mean of the others' references.

    Args:
        judge, replies, concurrency: see `eval.judge_client.collect`.
        rules: by category (`category` of a record, else its task), with `default` for the others.
        contexts: image name -> what is known of it.

    Raises:
        InputError: a record without a rule or with a truth that is not text; the endpoint refuses; references rated 0.
        JudgeError: the endpoint does not answer, or some replies cannot be read.
    """
    prompts = [prompt_of(answer, rules, contexts or {}) for answer in answers]
    asked = [n for n, answer in enumerate(answers) if (answer.prediction or "").strip()]
    ratings = _ratings([answers[n] for n in asked], [prompts[n] for n in asked], judge, replies, concurrency)
    by_answer = dict(zip(asked, ratings, strict=True))
    lowest = (sum(reference for reference, _ in ratings) / len(ratings) if ratings else 10.0, 1.0)
    pairs = [by_answer.get(n, lowest) for n in range(len(answers))]
    total = sum(reference for reference, _ in pairs)
    if total == 0:
        raise InputError(f"{judge.model} rated every reference 0, which leaves no relative score. Ask another judge.")
    per_record = [
        entry(
            answer,
            100 * rating * len(pairs) / total,
            answer.truth,
            malformed=n not in by_answer,
            category=category_of(answer, rules),
            reference_rating=reference,
            rating=rating,
        )
        for n, (answer, (reference, rating)) in enumerate(zip(answers, pairs, strict=True))
    ]
    share = 100 * sum(rating for _, rating in pairs) / total
    return scores_of("relative_score", share, per_record, _summary(per_record))


def _ratings(
    answers: Sequence[Answer], prompts: Sequence[Any], judge: Judge, replies: ReplyFile, concurrency: int
) -> list[tuple[float, float]]:
    """The ratings of reference and model for every answer. Raises JudgeError if one is lacking."""
    kept = f"Replies so far are kept in {replies.path}; run the command again."
    try:
        ratings = collect(judge, prompts, replies, parse_ratings, concurrency=concurrency)
    except JudgeError as error:
        raise JudgeError(f"{error} {kept}") from None
    unread = [n for n, rating in enumerate(ratings) if rating is None]
    if unread:
        first = unread[0]
        reply = excerpt(repr(replies.of(judge, prompts[first])[0]))
        raise JudgeError(
            f"the replies of {judge.model} to {len(unread)} of {len(answers)} answers hold no two ratings from 0 to 10 "
            f"on the first line, first: {answers[first].where}, got {reply}. The next run asks for these again. {kept}"
        )
    return ratings


def category_of(answer: Answer, rules: Mapping[str, Any]) -> str:
    """The rule that a record is judged by. Raises InputError if there is none."""
    named = [answer.record.get(field) for field in ("category", "task")]
    for name in [*named, CATEGORY]:
        if isinstance(name, str) and name in rules:
            return name
    raise InputError(f"{answer.where}: category must be one of {', '.join(rules)}, got {named[0]!r}. Add a rule.")


def prompt_of(answer: Answer, rules: Mapping[str, Any], contexts: Mapping[str, str]) -> list[dict[str, str]]:
    """The chat messages that ask for the ratings of an answer: what `score` sends.

    Raises:
        InputError: no rule, no context for the image, or a truth that is not text.
    """
    if not isinstance(answer.truth, str):
        raise InputError(f"{answer.where}: conversations[1].value must be the reference answer. Fix the record.")
    names = [name for name in image_names(answer.record) if contexts]
    known = [contexts.get(name, contexts.get(Path(name).name)) for name in names]
    if None in known:
        raise InputError(f"{answer.where}: image {names[known.index(None)]!r} has no context. Add it to the file.")
    return review_prompt(answer, rules[category_of(answer, rules)], "\n\n".join(known))


def _summary(per_record: Sequence[Entry]) -> str:
    """LLaVA's lines: category, relative score, mean ratings of reference and model times ten."""
    groups: dict[str, list[Entry]] = {"all": list(per_record)}
    for one in per_record:
        groups.setdefault(one["category"], []).append(one)
    lines = []
    for name, entries in groups.items():
        reference, rating = (sum(e[key] for e in entries) for key in ("reference_rating", "rating"))
        n = len(entries)
        share = f"{100 * rating / reference:.1f}" if reference else "n/a"
        lines.append(f"{name} {share} {10 * reference / n:.1f} {10 * rating / n:.1f}")
    return "\n".join(lines[:1] if len(groups) == 2 else lines)


def judged_by(
    answers: Path,
    judge_model: str,
    judge_url: str | None = None,
    judge_temperature: float = 0.2,
    judge_max_tokens: int = 1024,
    rule_file: str | None = None,
    context_file: str | None = None,
    replies: str | os.PathLike | None = None,
    concurrency: int = 4,
) -> dict[str, Any]:
    """What `score` needs beside answers, out of the values of the command's flags.

    Args:
        answers: the answer file.

    Raises:
        InputError: a flag out of range, a file of another shape.
    """
    if concurrency < 1:
        raise InputError(f"--concurrency must be at least 1, got {concurrency}. Raise it.")
    url = judge_url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    return {
        "judge": Judge(judge_model, url, judge_temperature, judge_max_tokens),
        "replies": ReplyFile(replies or answers.with_suffix(".judge.jsonl")),
        "rules": read_rules(rule_file),
        "contexts": read_contexts(context_file),
        "concurrency": concurrency,
    }


JUDGE_FLAGS = {
    "judge_model": "name of the judging model at the endpoint",
    "judge_url": f"base address of the endpoint; {URL_VARIABLE} or {DEFAULT_URL} if left out",
    "concurrency": "requests at a time",
}
main = evaluator(
    "judge.py",
    __doc__,
    score,
    judged_by,
    "--judge-model gpt-4o",
    **JUDGE_FLAGS,
    judge_temperature="of the judge's replies",
    judge_max_tokens="longest reply of the judge",
    rule_file="rules by category in the format of LLaVA's rule.json; our own if left out",
    context_file="what is known of each image as text, in LLaVA-Bench's format",
    replies="where replies are kept; <answers>.judge.jsonl if left out",
)

if __name__ == "__main__":
    run(main)
