"""The demo benchmark: images drawn with Pillow, annotation files, and the tiny base model."""
