"""Accuracy of verdicts, as an `evaluate` module."""
