"""The former address of what the zero-shot scorers share."""

from eval.scores import Entry, Scores, entry, percent, percent_by
from eval.zero_shot.answers import (
    AnswerLine,
    Answers,
    by_id,
    get,
    in_order_of,
    numbered,
    outcome,
    read_answers,
    read_lines,
    read_object,
)

__all__ = ["AnswerLine", "Answers", "Entry", "Scores", "by_id", "entry", "get", "in_order_of", "numbered", "outcome"]
__all__ += ["percent", "percent_by", "read_answers", "read_lines", "read_object"]
