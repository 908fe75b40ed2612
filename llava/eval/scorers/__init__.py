"""Scores of the zero-shot benchmarks, equal to the official ones, out of LLaVA's answer lines. Needs no torch."""
