"""Training: arguments, trainer, entry points."""
