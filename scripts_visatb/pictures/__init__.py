"""Pictures for documents: drawn from a run, or taken of its pages by a headless browser."""
