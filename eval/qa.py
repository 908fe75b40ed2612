"""Exact match of short answers: stripped, lower-cased, without one trailing period."""

from collections.abc import Sequence

from eval.answers import Answer
from eval.command import evaluator
from eval.registry import metric
from eval.scores import Scores, entry, hit_scores
from visatb.cli import run
from visatb.errors import InputError


def normalize(text: str) -> str:
    """The form in which answers are compared."""
    return text.strip().lower().removesuffix(".")


@metric("exact_match", "exact_match")
def score(answers: Sequence[Answer]) -> Scores:
    """The share of predictions that equal their truth.

    Args:
        answers: at least one; a truth is text and may be empty.

    Raises:
        InputError: if a truth is not text.
    """
    per_record = []
    for answer in answers:
        if not isinstance(answer.truth, str):
            raise InputError(f"{answer.where}: conversations[1].value must be text for exact match. Fix the record.")
        hit = answer.prediction is not None and normalize(answer.prediction) == normalize(answer.truth)
        per_record.append(entry(answer, hit, answer.truth, malformed=answer.prediction is None))
    return hit_scores("exact_match", per_record)


main = evaluator("qa.py", __doc__, score)

if __name__ == "__main__":
    run(main)
