"""The earlier address of visatb/weighting/tables.py."""

from visatb.weighting.tables import ScoreTable, merge_tables, read_score_table  # noqa: F401
