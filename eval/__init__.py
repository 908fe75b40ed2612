"""Scores of answer files: CIDEr, exact match, box accuracy, and the overall metrics. Needs no torch."""
