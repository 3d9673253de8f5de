"""Figures and how sure they are: shares, areas and calibration errors with their 95% intervals."""
