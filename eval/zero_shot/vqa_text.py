"""VQA accuracy and the two published ways of bringing answers into one form before they are compared.

`normalize` is that of the VQA evaluation (https://github.com/GT-Vision-Lab/VQA, vqaEval.py; rules at
https://visualqa.org/evaluation.html); `normalize_m4c` that of TextVQA's M4C evaluator, which LLaVA also applies to what
it submits to the VQAv2 and VizWiz servers (facebookresearch/mmf, EvalAIAnswerProcessor).
"""

import re
from collections.abc import Sequence

ARTICLES = ("a", "an", "the")
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

_SHORT = """ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's
isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't
somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd
they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd
who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've"""
_LONG = """couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've
something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've 'ow's'at"""


def _contractions() -> dict[str, str]:
    """The published table: a word without its apostrophe (of several: without one of them) -> the word.

    "shes" and "id" are not in it, and "somebody'd" loses its apostrophe: so it was published, and so scores are made.
    """
    table = {word.replace("'", ""): word for word in _SHORT.split()}
    for word in _LONG.split():
        places = [n for n, letter in enumerate(word) if letter == "'"]
        table.update({word[:n] + word[n + 1 :]: word for n in places})
    return table | {"somebody'd": "somebodyd"}


CONTRACTIONS = _contractions()
_DIGITS_COMMA = re.compile(r"\d,\d")
# The published pattern means to spare a period after a digit too, but its look-behind is misspelt and always holds.
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # the published code hands re.UNICODE to `count`


def normalize(text: str) -> str:
    """The form in which the VQA evaluation compares answers."""
    return _words(_without_punctuation(_one_line(text)))


def normalize_m4c(text: str) -> str:
    """The form in which TextVQA's evaluator compares answers."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalize(text)


def accuracy(answer: str, references: Sequence[str]) -> float:
    """min(1, matches / 3) of an answer, averaged over leaving out each of the references in turn; in [0, 1]."""
    n = len(references)
    matches = sum(1 for reference in references if reference == answer)
    return (matches * min(1.0, (matches - 1) / 3) + (n - matches) * min(1.0, matches / 3)) / n


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Accuracy as the VQA evaluation computes it: where all references are the same, nothing is normalised."""
    answer, references = _one_line(answer), [_one_line(reference) for reference in references]
    if len(set(references)) > 1:
        answer, references = normalize(answer), [normalize(reference) for reference in references]
    return accuracy(answer, references)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    """A mark goes without a trace if it touches a space anywhere or the text has 1,000; else it becomes a space."""
    has_thousands = _DIGITS_COMMA.search(text) is not None
    left = text
    for mark in PUNCTUATION:
        leaves_none = has_thousands or f"{mark} " in text or f" {mark}" in text
        left = left.replace(mark, "" if leaves_none else " ")
    return _PERIOD.sub("", left, count=_MOST_PERIODS)


def _words(text: str) -> str:
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
