"""What every part of VisATB shares: task definitions, records, careful files, one-line errors. Needs no torch."""
