"""CIDEr of captions with a list of references each, over whitespace-separated words (no PTB tokenizer)."""

from collections.abc import Sequence

from eval.answers import Answer
from eval.caption import TOKENIZER_HELP, Tokenizer, cider_scores
from eval.command import evaluator
from eval.registry import REFERENCE_LISTS, metric
from eval.scores import Scores
from visatb.cli import run
from visatb.errors import InputError


@metric("cider_list", "CIDEr", range=(0.0, 10.0), deviation=1.0, needs=REFERENCE_LISTS)
def score(answers: Sequence[Answer], tokenizer: Tokenizer = "whitespace") -> Scores:
    """CIDEr (arXiv 1411.5726) of predictions with a list of references each.

    Args:
        answers: at least two; a truth is a list of texts, one of them not blank.
        tokenizer: how captions are split into words.

    Raises:
        InputError: if a truth is no such list or there are fewer than two answers.
    """
    for answer in answers:
        at = f"{answer.where}: conversations[1].value"
        if isinstance(answer.truth, str):
            raise InputError(f"{at} is one text, must be a list of references. Score this file with eval/caption.py.")
        if not isinstance(answer.truth, list) or not all(isinstance(text, str) for text in answer.truth):
            raise InputError(f"{at} must be a list of texts. Fix the record.")
        if not any(text.strip() for text in answer.truth):
            raise InputError(f"{at} must hold a reference that is not blank, got {answer.truth!r}. Fix the record.")
    return cider_scores(answers, [answer.truth for answer in answers], tokenizer)


main = evaluator("caption_list.py", __doc__, score, tokenizer=TOKENIZER_HELP)

if __name__ == "__main__":
    run(main)
