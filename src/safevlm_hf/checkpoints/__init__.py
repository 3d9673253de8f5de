"""Checkpoints: find the family of one, put a stock one together, load a safe one, and check that its weights arrive
unchanged."""
