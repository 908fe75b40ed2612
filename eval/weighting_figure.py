"""The earlier address of visatb/weighting/figure.py."""

from visatb.weighting.figure import draw  # noqa: F401
