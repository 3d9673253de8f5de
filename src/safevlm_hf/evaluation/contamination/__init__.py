"""Search for a benchmark's pictures and texts in training data."""
