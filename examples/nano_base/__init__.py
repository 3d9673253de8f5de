"""How the nano base is made: its pictures, its vision tower, its conversations and its language model."""

from safevlm_hf.data import NANO_BASE, riskcards


IMAGE_SIZE = 112
PATCH_SIZE = 14
GRID = IMAGE_SIZE // PATCH_SIZE
NUM_PATCHES = GRID**2
IGNORE_INDEX = -100

__all__ = ["GRID", "IGNORE_INDEX", "IMAGE_SIZE", "NANO_BASE", "NUM_PATCHES", "PATCH_SIZE", "riskcards"]
