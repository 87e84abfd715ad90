"""Headless training: `python -m likeness.trainer`."""
