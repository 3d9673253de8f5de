"""Data sets: the embedded RiskCards, the nano bases that were trained on them, and records on disk.

Nothing heavy is imported here: import `safevlm_hf.data.records` and `safevlm_hf.data.riskcards` by their own names.
"""

from pathlib import Path


NANO_BASE = Path(__file__).parent / "nano_base"
"""The embedded base: a stock LLaVA of under four million parameters, made by examples/train_nano_base.py."""

NANO_BASES = {"llava": NANO_BASE, "idefics3": NANO_BASE.with_name("nano_idefics3")}
"""Backbone to its embedded base. The second one sees pictures of any shape, as tiles."""

NANO_SAFE = NANO_BASE.with_name("nano_safe")
"""The safe checkpoint that `make demo` makes of it, packed by examples/pack_checkpoint.py. It knows drawn cards."""
