"""Baselines of a safe model on the same records: other defences, and itself with parts taken out."""
