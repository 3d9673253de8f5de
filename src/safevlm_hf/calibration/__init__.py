"""Temperatures and thresholds of a policy, from labelled data (`safevlm calibrate`)."""
