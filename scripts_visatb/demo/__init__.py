"""The demo benchmark: pictures drawn with Pillow, annotation files, and the tiny base model that it starts from."""
