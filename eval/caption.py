"""CIDEr of captions with one reference each, over whitespace-separated words (no PTB tokenizer, as in the paper)."""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Literal

from eval.answers import Answer
from eval.command import evaluator
from eval.registry import metric
from eval.scores import Scores, entry, scores_of
from visatb.cli import run
from visatb.errors import InputError

Tokenizer = Literal["whitespace", "ptb"]


@metric("cider", "CIDEr", range=(0.0, 10.0), deviation=1.0)
def score(answers: Sequence[Answer], tokenizer: Tokenizer = "whitespace") -> Scores:
    """CIDEr (arXiv 1411.5726) of predictions with one reference each.

    Args:
        answers: at least two; a truth is text that is not blank.
        tokenizer: how captions are split into words.

    Raises:
        InputError: if a truth is no such text or there are fewer than two answers.
    """
    for answer in answers:
        if isinstance(answer.truth, list):
            raise InputError(
                f"{answer.where}: conversations[1].value is a list of references, must be one text. "
                "Score this file with eval/caption_list.py."
            )
        if not isinstance(answer.truth, str) or not answer.truth.strip():
            raise InputError(
                f"{answer.where}: conversations[1].value must be a text that is not blank. Fix the record."
            )
    return cider_scores(answers, [[answer.truth] for answer in answers], tokenizer)


def cider_scores(answers: Sequence[Answer], references: Sequence[list[str]], tokenizer: Tokenizer) -> Scores:
    """CIDEr of predictions with any number of references each.

    A malformed prediction is scored as an empty one, which is 0.

    Raises:
        InputError: if there are fewer than two answers: the idf of a single record is 0, and so is every score; or if
            pycocoevalcap is not installed.
    """
    if len(answers) < 2:
        raise InputError(
            f"{answers[0].where}: is the only record, and CIDEr of one record is always 0. Score 2 records or more."
        )
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError:
        raise InputError("CIDEr needs pycocoevalcap, which is not installed. Run pip install pycocoevalcap.") from None

    # Keyed by position: pycocoevalcap keeps one entry per key, so that repeated ids would shrink the set.
    truth = {answer.position: reference for answer, reference in zip(answers, references, strict=True)}
    predicted = {answer.position: [answer.prediction or ""] for answer in answers}
    if tokenizer == "ptb":
        truth, predicted = _ptb_tokenized(truth), _ptb_tokenized(predicted)
        if not any(text for texts in truth.values() for text in texts):
            raise InputError(f"{answers[0].where}: no reference of the file keeps a word under ptb. Use whitespace.")
    mean, per_answer = Cider().compute_score(truth, predicted)
    per_record = [
        entry(answer, value, answer.truth, malformed=answer.prediction is None)
        for answer, value in zip(answers, per_answer, strict=True)
    ]
    return scores_of("CIDEr", float(mean), per_record, notes=_degenerate(truth))


def _degenerate(references: Mapping[int, Sequence[str]]) -> list[str]:
    """A note if CIDEr is 0 whatever the predictions say: all records have the same n-grams of words."""
    if len({tuple(sorted({tuple(text.split()) for text in texts})) for texts in references.values()}) > 1:
        return []
    return [
        f"all {len(references)} records have the same references, so that every word has an inverse document frequency "
        "of 0: CIDEr is 0 whatever is predicted. Take another metric, or records that differ"
    ]


def _ptb_tokenized(captions: dict[int, list[str]]) -> dict[int, list[str]]:
    if shutil.which("java") is None:
        raise InputError("--tokenizer ptb needs Java, and there is no java in PATH. Install it, or use whitespace.")
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # The tokenizer is fed one caption a line and gives one back a line: no other line end may be left in a caption.
    boxed = {key: [{"caption": " ".join(text.split())} for text in texts] for key, texts in captions.items()}
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        return PTBTokenizer().tokenize(boxed)


TOKENIZER_HELP = "how captions are split into words; ptb lower-cases, drops punctuation and needs Java"
main = evaluator("caption.py", __doc__, score, tokenizer=TOKENIZER_HELP)

if __name__ == "__main__":
    run(main)
