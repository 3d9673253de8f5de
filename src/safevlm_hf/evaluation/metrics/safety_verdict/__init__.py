"""How right verdicts are, as an `evaluate` module."""
