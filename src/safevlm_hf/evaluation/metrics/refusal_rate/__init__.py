"""How many answers are refusals, as an `evaluate` module."""
