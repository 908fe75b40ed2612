"""The earlier address of visatb/weighting/comparable.py."""

from visatb.weighting.comparable import ALLOW, Cell, Measured, check_comparable, measured_of  # noqa: F401
