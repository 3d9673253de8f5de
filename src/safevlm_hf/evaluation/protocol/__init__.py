"""What a result rests on: the frozen protocol, the systems, answers and results on disk."""
