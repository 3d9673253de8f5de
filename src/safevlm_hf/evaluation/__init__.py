"""Evaluation of a system on a benchmark: its answers, who judges them, figures of both, and the protocol under which
results may be compared.

Nothing heavy is imported here: import the modules by their own names.
"""
