"""The run graph: from annotation files to a balanced model, resumable by files (see Snakefile)."""
