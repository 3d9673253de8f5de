"""Scenes: photographs and drawings of others with questions about them, built from copies that a user has.

    manifest.py   what is used: sources, pictures by hash, concepts and their families of risks
    copies.py     reading a source: a git clone, a set of icons, an unpacked package
    fetching.py   bringing a source that is not there
    wordings.py   the questions, those of training and those held out
    pairs.py      the written rule: which picture stands beside which question, and what follows
    shortcuts.py  how far the picture alone, or the question alone, could get
    disk.py       records and pictures in a folder

The rule and the sources are described in docs/scenes.md.
"""

from .disk import Built, write_scenes
from .manifest import Manifest, read_manifest
from .pairs import Pair, build_pairs, judge
from .shortcuts import best_shortcut
from .wordings import read_wordings


__all__ = [
    "Built",
    "Manifest",
    "Pair",
    "best_shortcut",
    "build_pairs",
    "judge",
    "read_manifest",
    "read_wordings",
    "write_scenes",
]
