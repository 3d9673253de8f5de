"""Shares of answers that are refusals, as an `evaluate` module."""
