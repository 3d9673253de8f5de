"""The demo: both stages on the embedded default, held-out cards asked of base and safe model, and the report."""
