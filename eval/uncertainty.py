"""The earlier address of visatb/weighting/uncertainty.py."""

from visatb.weighting.uncertainty import Spread, bootstrap, read_record_scores, read_scores, spread_of_runs  # noqa: F401
