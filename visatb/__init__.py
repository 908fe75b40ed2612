"""Shared code of VisATB: task definitions, records, atomic file writes, one-line errors. Does not need torch."""
