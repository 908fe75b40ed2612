"""Leaves these tests to the environment of requirements-hf.txt."""

from importlib.metadata import version

collect_ignore_glob = ["*.py"] if version("transformers") < "5" else []
