"""The demo's figures: held-out RiskCards with words, turns and changes around them, their bounds, policies at work."""
