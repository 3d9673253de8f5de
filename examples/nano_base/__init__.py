"""How the nano base is made: its pictures, its vision tower, its conversations and its language model."""

import sys
from pathlib import Path


# RiskCards are imported on their own, not through the package: this needs no more of transformers than stock LLaVA.
DATA = Path(__file__).resolve().parents[2] / "src" / "safevlm_hf" / "data"
NANO_LLAVA = DATA / "nano_base"
sys.path.append(str(DATA))
import riskcards  # noqa: E402


IMAGE_SIZE = 112
PATCH_SIZE = 14
GRID = IMAGE_SIZE // PATCH_SIZE
NUM_PATCHES = GRID**2
IGNORE_INDEX = -100

__all__ = ["GRID", "IGNORE_INDEX", "IMAGE_SIZE", "NANO_LLAVA", "NUM_PATCHES", "PATCH_SIZE", "riskcards"]
