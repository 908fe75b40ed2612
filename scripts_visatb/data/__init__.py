"""Preparation and checking of annotation files."""
