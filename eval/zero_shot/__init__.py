"""The zero-shot benchmarks, a module each: data, official score, submission file. Needs no torch."""
