"""Tests of visatb_hf, which run in the environment of requirements-hf.txt (tests/run.sh starts them there)."""
