"""The earlier address of visatb/weighting/report.py."""

from visatb.weighting.report import format_report, to_json  # noqa: F401
