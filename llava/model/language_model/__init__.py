"""Language models that see."""
