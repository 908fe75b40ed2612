"""BLEU-4 of generated texts over the whole file (Papineni et al. 2002), over whitespace-separated words.

A record has one reference or a list of them. The per-record scores are sentence BLEU, smoothed by adding one to the
counts of two words and more (Lin and Och 2004); their mean is not the score of the file.
"""

from collections.abc import Sequence

from eval.answers import Answer
from eval.command import Scores, answer_parser, answers_of, record_score, report
from eval.gleu import reference_words
from visatb.cli import run
from visatb.errors import InputError


def score(answers: Sequence[Answer]) -> Scores:
    """Corpus BLEU-4, in [0, 1], with the brevity penalty.

    Args:
        answers: at least one; a truth is a text that is not blank, or a list of such.

    Raises:
        InputError: if a truth is none, or nltk is not installed.
    """
    try:
        from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu, sentence_bleu
    except ImportError:
        raise InputError("BLEU needs nltk, which is not installed. Run pip install nltk.") from None

    references = reference_words(answers)
    predictions = [(answer.prediction or "").split() for answer in answers]
    # nltk warns, and gives a number of its own, where an n-gram order has no match at all: there BLEU is 0.
    whole = float(corpus_bleu(references, predictions)) if _every_order_matches(references, predictions) else 0.0
    add_one = SmoothingFunction().method2
    per_record = [
        record_score(
            answer,
            float(sentence_bleu(words, said, smoothing_function=add_one)) if said else 0.0,
            malformed=answer.prediction is None,
        )
        for answer, words, said in zip(answers, references, predictions, strict=True)
    ]
    malformed = sum(1 for entry in per_record if entry["malformed"])
    return Scores(
        metric="BLEU",
        score=whole,
        n=len(per_record),
        malformed=malformed,
        per_record=per_record,
        summary=f"BLEU:  {whole}",
    )


def _every_order_matches(references: list[list[list[str]]], predictions: list[list[str]], most: int = 4) -> bool:
    """Whether n-grams of every order up to `most` have a match somewhere; if those of `most` have, the others do."""

    def grams(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[n : n + most]) for n in range(len(words) - most + 1)}

    return any(
        grams(said) & set().union(*map(grams, words)) for words, said in zip(references, predictions, strict=True)
    )


def main() -> int:
    """The command. Prints `BLEU:  score`."""
    options = answer_parser("bleu.py", __doc__).parse_args()
    answers = answers_of(options)
    return report(score(answers.answers), answers, options)


if __name__ == "__main__":
    run(main)
