"""A policy's settings, from data: temperatures and thresholds from labelled records (`safevlm calibrate`), and what
another policy would have done on an audit trail (`safevlm policy replay`)."""
