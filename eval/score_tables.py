"""The earlier address of visatb/weighting/tables.py."""

from visatb.weighting.tables import ScoreTable, merge_tables, read_score_table

__all__ = ["ScoreTable", "merge_tables", "read_score_table"]
