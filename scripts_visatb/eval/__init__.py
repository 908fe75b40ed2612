"""The zero-shot benchmarks: scripts, and LLaVA's converters of answers to submissions."""
