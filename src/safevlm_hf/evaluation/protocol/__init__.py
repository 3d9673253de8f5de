"""The grounds of a result: the frozen protocol, the systems, answers and results on disk."""
