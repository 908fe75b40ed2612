"""GLEU of generated texts: the sentence score of Wu et al. (arXiv 1609.08144), averaged, over words split at spaces.

A record has one reference or a list of them; the best counts.
"""

from collections.abc import Sequence

from eval.answers import Answer
from eval.command import evaluator
from eval.registry import metric
from eval.scores import Scores, entry, scores_of
from visatb.cli import run
from visatb.errors import InputError, shown


@metric("gleu", "GLEU")
def score(answers: Sequence[Answer]) -> Scores:
    """Mean GLEU, in [0, 1]: n-grams of one to four words, the lesser of precision and recall.

    Args:
        answers: at least one; a truth is a text that is not blank, or a list of such.

    Raises:
        InputError: if a truth is none, or nltk is not installed.
    """
    try:
        from nltk.translate.gleu_score import sentence_gleu
    except ImportError:
        raise InputError("GLEU needs nltk, which is not installed. Run pip install nltk.") from None

    per_record = [
        entry(
            answer,
            sentence_gleu(words, (answer.prediction or "").split()),
            answer.truth,
            malformed=answer.prediction is None,
        )
        for answer, words in zip(answers, reference_words(answers), strict=True)
    ]
    return scores_of("GLEU", sum(one["score"] for one in per_record) / len(per_record), per_record)


def reference_words(answers: Sequence[Answer]) -> list[list[list[str]]]:
    """The words of every reference of every record.

    Raises:
        InputError: naming the record whose truth is no text, or blank.
    """
    found = []
    for answer in answers:
        texts = [answer.truth] if isinstance(answer.truth, str) else answer.truth
        texts = texts if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else []
        words = [text.split() for text in texts if text.strip()]
        if not words:
            raise InputError(
                f"{answer.where}: conversations[1].value must be a text that is not blank or a list of such, got "
                f"{shown(answer.truth)}. Fix the record."
            )
        found.append(words)
    return found


main = evaluator("gleu.py", __doc__, score)

if __name__ == "__main__":
    run(main)
