"""Names of the report's columns: the models that are compared."""

BASE, STAGE1, BOTH_STAGES = "base", "after stage 1", "after both stages"
MEAN, FIRST = 'head_pooling="mean"', 'head_pooling="first"'
"""Heads that are trained for comparison, alone and for half an epoch."""
