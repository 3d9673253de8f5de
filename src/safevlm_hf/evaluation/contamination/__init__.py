"""Whether a benchmark's pictures and texts stand in training data."""
