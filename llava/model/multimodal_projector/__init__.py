"""Projectors from the vision tower into the language model."""
