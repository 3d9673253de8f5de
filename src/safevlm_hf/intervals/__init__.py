"""How sure a figure is: shares, areas and calibration errors with their 95% intervals."""
