"""The answering pipeline: questions in, a complete answer file out, whatever model answers (docs/inference.md)."""
