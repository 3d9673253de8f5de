"""The manifest: which pictures of which sources are used, by hash, and what each of them shows."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..riskcards.tables import CATEGORIES


HERE = Path(__file__).parent
SPLITS = ("train", "validation", "test", "unknown")
"""`unknown` has the whole sources that are held out; `test` the held-out pictures of sources that training knows."""


@dataclass(frozen=True)
class Source:
    """Where pictures come from.

    Attributes:
        name: of its manifest.
        kind: `"git"`, `"npm"` (a set of icons) or `"deb"`.
        folder: its name under the user's folder of sources.
        origin: `owner/name` on GitHub, or the package.
        version: the commit, or the package's version.
        sha256: of the package's file; empty for a repository, whose commit says it.
        licence: as its owner states it.
        is_shippable: it is of class A: pictures may be shown and shipped. The others are class B.
        looks: what its pictures are, as `"photograph"` or `"drawing"`; `"picture"` where they are of both kinds.
        is_held_out: nothing of it is ever trained on.
    """

    name: str
    kind: str
    folder: str
    origin: str
    version: str
    sha256: str
    licence: str
    is_shippable: bool
    looks: str
    is_held_out: bool


@dataclass(frozen=True)
class Concept:
    """What a picture shows. Without `families` it is clean: no question makes it risky."""

    name: str
    phrase: str
    families: tuple[str, ...] = ()

    @property
    def is_plural(self) -> bool:
        """The name is that of several, as "grapes"."""
        return self.phrase.endswith("s") and not self.phrase.startswith(("a ", "an "))


@dataclass(frozen=True)
class Picture:
    """One picture of a source: `path` is the file's, or the icon's name, and `sha256` the file's, or the SVG's."""

    source: Source
    path: str
    sha256: str
    concept: Concept
    split: str


@dataclass(frozen=True)
class Manifest:
    """All that is used.

    Attributes:
        sources: by name.
        pictures: without those that were looked at and left out.
        families: family of risks to its category.
        look_alikes: family to a concept that looks alike and does not belong to it.
    """

    sources: Mapping[str, Source]
    pictures: tuple[Picture, ...]
    families: Mapping[str, str]
    look_alikes: Mapping[str, str]


def read_manifest(folder: Path = HERE) -> Manifest:
    """Read the manifest that ships, or one in the same layout.

    Raises:
        ValueError: a concept's family or a family's category is unknown, or a split does not fit its source.
    """
    sources = {name: _read_source(name, entry) for name, entry in _read_yaml(folder / "sources.yaml").items()}
    table = _read_yaml(folder / "concepts.yaml")
    families, carriers = table["families"], table["concepts"]
    wrong = [name for name, category in families.items() if category not in CATEGORIES]
    wrong += [name for name, entry in carriers.items() if not set(entry["families"]) <= set(families)]
    if wrong:
        raise ValueError(f"{folder / 'concepts.yaml'}: unknown family or category at {', '.join(wrong)}.")
    left_out = set((folder / "left_out.txt").read_text(encoding="utf-8").split())
    pictures = []
    for source in sources.values():
        with (folder / "manifest" / f"{source.name}.csv").open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                concept = _find_concept(row["concept"], carriers)
                picture = Picture(source, row["path"], row["sha256"], concept, row["split"])
                if picture.split not in SPLITS or (picture.split == "unknown") != source.is_held_out:
                    raise ValueError(f"{source.name}: {picture.path} is in the split {picture.split!r}.")
                if picture.sha256 not in left_out:
                    pictures.append(picture)
    return Manifest(sources, tuple(pictures), families, table.get("look_alikes", {}))


def _read_yaml(file: Path) -> dict:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _read_source(name: str, entry: dict) -> Source:
    return Source(
        name=name,
        kind=entry["kind"],
        folder=entry.get("folder", name),
        origin=entry["origin"],
        version=str(entry["version"]),
        sha256=entry.get("sha256", ""),
        licence=entry["licence"],
        is_shippable=entry["class"] == "A",
        looks=entry["looks"],
        is_held_out=entry["held_out"],
    )


def _find_concept(name: str, carriers: dict) -> Concept:
    entry = carriers.get(name, {})
    return Concept(name, entry.get("phrase") or _with_article(name), tuple(entry.get("families", ())))


def _with_article(name: str) -> str:
    if name.endswith("s") and not name.endswith(("ss", "us")):
        return name  # several, as "grapes"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
