"""Conversion of checkpoints: merging adapters, extracting projectors, converting layouts."""
