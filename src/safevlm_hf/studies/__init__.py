"""Studies of the safety layer, each run by a script in `examples/`: attacks, other defences, and what they cost."""
