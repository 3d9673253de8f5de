"""Checkpoints: the family that one belongs to, a stock one made of parts, a safe one loaded, and whether its
weights arrive unchanged."""
