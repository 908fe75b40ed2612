"""The former address of what the zero-shot scorers share."""

__all__ = [
    *("AnswerLine", "Answers", "Entry", "Scores", "by_id", "entry", "get", "in_order_of", "numbered", "outcome"),
    *("percent", "percent_by", "read_answers", "read_lines", "read_object"),
]
