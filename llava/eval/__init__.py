"""Asking a trained model: the one generation loop, and LLaVA's evaluation commands over it."""
