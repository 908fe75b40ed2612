"""BLEU-4 of generated texts over the whole file (Papineni et al. 2002), over whitespace-separated words.

A record has one reference or a list of them. The per-record scores are sentence BLEU, smoothed by adding one to the
counts of two words and more (Lin and Och 2004); their mean is not the score of the file.
"""

from collections.abc import Sequence

from eval.answers import Answer
from eval.command import evaluator
from eval.gleu import reference_words
from eval.registry import metric
from eval.scores import Scores, entry, scores_of
from visatb.cli import run
from visatb.errors import InputError

_ORDER = 4


@metric("bleu", "BLEU")
def score(answers: Sequence[Answer]) -> Scores:
    """Corpus BLEU-4, in [0, 1], with the brevity penalty.

    Args:
        answers: at least one; a truth is a text that is not blank, or a list of such.

    Raises:
        InputError: if a truth is none, or sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise InputError("BLEU needs sacrebleu, which is not installed. Run pip install sacrebleu.") from None

    references = [[" ".join(words) for words in texts] for texts in reference_words(answers)]
    predictions = [" ".join((answer.prediction or "").split()) for answer in answers]
    most = max(map(len, references))
    # sacrebleu takes one list per reference number; None where a record has fewer.
    columns = [[texts[n] if n < len(texts) else None for texts in references] for n in range(most)]
    whole = BLEU(tokenize="none", smooth_method="none").corpus_score(predictions, columns).score / 100
    by_sentence = BLEU(tokenize="none", smooth_method="add-k", smooth_value=1, effective_order=True)
    per_record = [
        entry(
            answer,
            by_sentence.sentence_score(said, texts).score / 100,
            answer.truth,
            malformed=answer.prediction is None,
        )
        for answer, texts, said in zip(answers, references, predictions, strict=True)
    ]
    return scores_of("BLEU", whole, per_record, notes=_degenerate(references, predictions))


def _degenerate(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> list[str]:
    """A note if BLEU-4 is 0 because a side of the file has no four words in a row."""
    for side, texts in (("reference", [text for group in references for text in group]), ("prediction", predictions)):
        if max(len(text.split()) for text in texts) < _ORDER:
            return [f"no {side} has {_ORDER} words, so that BLEU-{_ORDER} is 0 by construction. Take another metric"]
    return []


main = evaluator("bleu.py", __doc__, score)

if __name__ == "__main__":
    run(main)
