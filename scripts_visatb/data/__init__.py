"""Making and checking annotation files."""
