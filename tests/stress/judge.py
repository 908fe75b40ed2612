"""Mutated replies of a judging model, for eval/judge.py and LLaVA-Bench's review.

A reply is read only where its first line holds two numbers from 0 to 10 and nothing else, and then counts as what they
say. Whatever was said: once the judge replies as it should, the same command ends with the usual score.
"""

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from eval import judge
from eval.zero_shot import llavabench
from tests.judge_endpoint import Endpoint, chat_reply, judge_endpoint, usual_reply
from tests.stress.mutators import mutated
from tests.stress.trials import ACCEPTED, REFUSED, WRONG, Trial, call, verdict
from tests.zero_shot_data import make_zero_shot_data

COUNT = 50
_REPLIES = (
    *(
        "8 6",
        "8 6\nbecause",
        "**8 6**",
        "8/10, 6/10",
        "8. 6.",
        "10 0",
        "0 10",
        "8,6",
        "8.5 6",
        "\n\n8 6",
        "8 6\n\ud83d",
    ),
    *("Ratings: 8 6", "8", "8 6 4", "11 6", "-8 6", "8 -6", "8 1e1", "８ ６", "nan 6", "8\n6", "", " ", "\ud83d"),
    *("x" * 10**6, "8 6" * 10**5, "[" * 10**5, None, 8, [8, 6], {"text": "8 6"}),
)
_USUAL = (8, 6)


@dataclass(frozen=True)
class Subject:
    """A command that asks a judge.

    Attributes:
        name, main, argv: the command and its flags.
        asked: what the question holds whose reply is mutated.
        others: number of other questions.
        output, replies: the metric file, and the file of replies.
    """

    name: str
    main: Callable[[], int | None]
    argv: Sequence[str | Path]
    asked: str
    others: int
    output: Path
    replies: Path

    def score(self, ratings: tuple[float, float]) -> float:
        """The relative score if the mutated reply rates so and the others as usual."""
        reference, rating = (rated + self.others * usual for rated, usual in zip(ratings, _USUAL, strict=True))
        return 100 * rating / reference


def trials(count: int, seed: str, folder: Path) -> Iterator[Trial]:
    """`count` mutated replies for both commands."""
    with judge_endpoint() as endpoint, mock.patch("time.sleep"):
        for subject in (_judge(folder, endpoint.url), _llavabench(folder, endpoint.url)):
            for n in range(count):
                yield _trial(subject, endpoint, random.Random(f"{seed} {subject.name} {n}"))


def _trial(subject: Subject, endpoint: Endpoint, chance: random.Random) -> Trial:
    for path in (subject.output, subject.replies):
        path.unlink(missing_ok=True)
    what, body, length = _mutated_reply(chance)

    def reply(asked: dict) -> tuple:
        is_meant = subject.asked in asked["messages"][1]["content"]
        return (200, body, length) if is_meant else usual_reply(asked)

    ratings = _ratings(body) if length == len(body) else None
    fault = None if ratings else "the reply holds no two ratings"
    endpoint.reply = reply
    ended = call(subject.main, subject.argv)
    wrong = lambda: _other_score(subject, subject.score(ratings))  # noqa: E731
    found, why = verdict(ended, fault, ratings is not None, wrong, [subject.output], (1, 2))
    if found in (ACCEPTED, REFUSED):
        endpoint.reply = usual_reply
        again = call(subject.main, subject.argv)
        locked = again.err or "exit code" if again.code else _other_score(subject, subject.score(ratings or _USUAL))
        found, why = (WRONG, f"the next run: {locked}") if locked else (found, why)
    return Trial(subject.name, what, found, why, body)


def _other_score(subject: Subject, expected: float) -> str | None:
    score = json.loads(subject.output.read_text())["score"]
    return None if abs(score - expected) < 1e-9 else f"the score is {score}, not {expected}"


def _mutated_reply(chance: random.Random) -> tuple[str, bytes, int]:
    """What was done, the body of the reply, and the length that its header claims."""
    if chance.random() < 0.5:
        said = chance.choice(_REPLIES)
        body = chat_reply(said)
        return f"says {said!r:.40}", body, len(body)
    what, body = mutated(chat_reply("8 6\nbecause").decode(), chance)
    cut = chance.random() < 0.2
    return what + ", cut short" * cut, body, len(body) + 7 * cut


def _ratings(body: bytes) -> tuple[float, float] | None:
    """The two numbers on the first line of a reply, read word by word; None if it says anything else."""
    try:
        content = json.loads(body.decode("utf-8", errors="replace"))["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    lines = re.sub(r"[*_`#]", "", content).split("\n") if isinstance(content, str) else []
    first = next((line for line in lines if line.strip()), "").replace("/10", "")
    words = [word.removesuffix(".") for word in re.split(r"[\s,;]+", first.strip())]
    if len(words) != 2 or not all(re.fullmatch(r"[0-9]+(\.[0-9]+)?", word) for word in words):
        return None
    pair = float(words[0]), float(words[1])
    return pair if max(pair) <= 10 else None


def _judge(folder: Path, url: str) -> Subject:
    file, output, replies = folder / "answers.json", folder / "metric.json", folder / "answers.judge.jsonl"
    records = []
    for n in range(2):
        turns = [{"from": "human", "value": f"<image>\nWhat is {n}?"}, {"from": "gpt", "value": f"It is {n}."}]
        turns[1]["generative_value"] = "A square."
        records.append({"id": n, "image": f"{n}.jpg", "conversations": turns, "generator": "m"})
    file.write_text(json.dumps(records))
    argv = ["-a", file, "--judge-model", "j", "--judge-url", url, "--output", output]
    return Subject("eval/judge.py", judge.main, argv, "What is 0?", 1, output, replies)


def _llavabench(folder: Path, url: str) -> Subject:
    home = make_zero_shot_data(folder / "data") / "llava-bench-in-the-wild"
    answers, output = folder / "answers.jsonl", folder / "LLaVA-Bench.json"
    lines = [{"question_id": n, "prompt": "", "text": "A square.", "model_id": "m"} for n in range(3)]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    argv = ["--question", home / "questions.jsonl", "--context", home / "context.jsonl", "--rule", home / "rule.json"]
    argv += ["--answer-list", home / "answers_gpt4.jsonl", answers, "--reviews-file", folder / "reviews.jsonl"]
    argv += ["--judge-url", url, "--output", output]
    replies = folder / "reviews.judge.jsonl"
    return Subject("llavabench.py", llavabench.main, argv, "Describe 0.", 2, output, replies)
