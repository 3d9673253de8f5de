"""Scenes in a folder: records of each split as JSON lines, their pictures, an attribution file and the counts."""

import base64
import hashlib
import json
import random
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from PIL import Image

from ...extras import check_extra, needs_extra
from ...modeling.image_loading import open_image
from ...progress import Progress
from ..riskcards.fillers import draw_fillers
from ..riskcards.tables import CATEGORIES
from .copies import Copy, open_copy
from .fetching import fetch
from .manifest import Manifest, Picture, Source, read_manifest
from .pairs import Pair, build_pairs
from .shortcuts import best_shortcut, by_picture, by_text
from .wordings import read_wordings


SIZE = 336
DRAWING_SIZE = 288
"""Drawings in lines stand on a white ground of `SIZE`, with a margin."""
SUMMARY, ATTRIBUTION = "scenes.json", "ATTRIBUTION.md"
FILES = {
    "train": ("train", "training"),
    "validation": ("validation", "validation"),
    "test": ("test", "held out"),
    "test-trained-words": ("test", "training"),
    "unknown": ("unknown", "held out"),
    "unknown-trained-words": ("unknown", "training"),
}
"""Name of a file of records to its split of pictures and its part of the questions."""
AMONG, SECOND = 0.25, 0.1
"""Shares of the training questions that stand among one to four harmless sentences, and in a second turn."""
REPLIES = ("I see.", "All right.", "Go ahead.", "What would you like to know?", "Good to know.")
"""To the harmless sentence in front of a second turn."""
REASONS = ("needs --accept-terms", "source not there", "not in the source", "another hash", "unreadable")


@dataclass
class Built:
    """What was built.

    Attributes:
        folder: where it is.
        pairs: by file of records.
        taken: pictures of each source.
        left_out: reason (`REASONS`) to source to the paths left out for it.
        problems: sentences on what could not be brought or built.
    """

    folder: Path
    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    taken: Counter = field(default_factory=Counter)
    left_out: dict[str, dict[str, list[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    problems: list[str] = field(default_factory=list)

    def shortcuts(self) -> dict[str, dict[str, float]]:
        """Return for each file the best balanced accuracy that the picture alone, and the question alone, allow."""
        return {
            name: {"picture alone": best_shortcut(pairs, by_picture), "question alone": best_shortcut(pairs, by_text)}
            for name, pairs in self.pairs.items()
        }


def write_scenes(
    output_dir: Path,
    sources: Path,
    accept_terms: bool = False,
    download: bool = False,
    seed: int = 0,
    questions: int = 2,
    overwrite: bool = False,
    manifest: Manifest | None = None,
) -> Built:
    """
    Build the data set from the copies of the sources in a folder. It appears under its name when it is complete.

    Args:
        sources: holds a folder for each source.
        accept_terms: read class B, too: sources whose terms the user has to keep.
        download: bring the sources that are not there.
        seed: of the pairs.
        questions: risky pairs for each picture of training that can carry a risk; one in the other files.
        overwrite: replace a data set that was built here.
        manifest: another one than the one that ships.

    Raises:
        ValueError: something else lies there, or there is not one picture.
        ImportError: `resvg-py`, which draws icons, is not installed.
    """
    manifest = manifest or read_manifest()
    _check_output(output_dir, overwrite)
    check_extra("scenes", "resvg_py")
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}-", dir=output_dir.parent))
    try:
        built = Built(output_dir)
        files = _take_pictures(manifest, sources, temporary, accept_terms, download, built)
        if not files:
            raise ValueError(f"{sources}: no picture of the manifest is there. {_first_reasons(built)}")
        _write_records(manifest, files, temporary, seed, questions, built)
        _write_attribution(manifest, temporary, built)
        summary = {"seed": seed, "questions": questions, **_summarise(built)}
        (temporary / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        temporary.chmod(0o755)  # a folder of `mkdtemp` is its owner's alone
        if output_dir.exists():
            shutil.rmtree(output_dir)
        temporary.rename(output_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return built


def _check_output(output_dir: Path, overwrite: bool):
    if not output_dir.exists() or (output_dir.is_dir() and not any(output_dir.iterdir())):
        return
    if not (output_dir / SUMMARY).is_file() or not (output_dir / ATTRIBUTION).is_file():
        raise ValueError(f"{output_dir} is there, and was not built here: name another folder.")
    if not overwrite:
        raise ValueError(f"{output_dir} is there already: `--overwrite` replaces it, another folder keeps it.")


def _take_pictures(
    manifest: Manifest, sources: Path, folder: Path, accept_terms: bool, download: bool, built: Built
) -> dict[Picture, str]:
    """Write the pictures that are there and are the manifest's, and return their paths in the folder."""
    files: dict[Picture, str] = {}
    by_source = defaultdict(list)
    for picture in manifest.pictures:
        by_source[picture.source.name].append(picture)
    with Progress(len(manifest.pictures), "reading sources", "picture") as progress:
        for source in manifest.sources.values():
            pictures = by_source[source.name]
            copy = None
            if not source.is_shippable and not accept_terms:
                built.left_out[REASONS[0]][source.name] = [one.path for one in pictures]
            elif (copy := _open(source, sources, download, built)) is None:
                built.left_out[REASONS[1]][source.name] = [one.path for one in pictures]
            if copy is None:
                progress.update(len(pictures))
                continue
            with copy:
                for picture in pictures:
                    if (reason := _take(picture, copy, folder)) is None:
                        files[picture] = _file_of(picture)
                        built.taken[source.name] += 1
                    else:
                        built.left_out[reason][source.name].append(picture.path)
                    progress.update()
    return files


def _open(source: Source, sources: Path, download: bool, built: Built) -> Copy | None:
    copy = open_copy(source, sources)
    if copy is None and download and not (sources / source.folder).exists():
        try:
            fetch(source, sources)
        except OSError as error:
            built.problems.append(f"{source.name} could not be brought: {error}")
        copy = open_copy(source, sources)
    return copy


def _file_of(picture: Picture) -> str:
    return f"pictures/{picture.source.name}/{picture.sha256[:20]}.jpg"


def _take(picture: Picture, copy: Copy, folder: Path) -> str | None:
    """Write one picture; return why it is left out, if it is."""
    content = copy.read(picture.path)
    if content is None:
        return REASONS[2]
    if hashlib.sha256(content).hexdigest() != picture.sha256:
        return REASONS[3]
    try:
        image = _decode(content)
    except ValueError:
        return REASONS[4]
    file = folder / _file_of(picture)
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, quality=90)
    return None


def _decode(content: bytes) -> Image.Image:
    """Return the picture, no larger than `SIZE`, whether it is made of pixels or of lines.

    Raises:
        ValueError: it is neither.
    """
    is_svg = content.lstrip()[:5] in (b"<svg ", b"<?xml")
    if is_svg:
        with needs_extra("scenes"):
            import resvg_py

        content = bytes(resvg_py.svg_to_bytes(svg_string=content.decode("utf-8"), width=DRAWING_SIZE))
    image = open_image(base64.b64encode(content).decode(), draft_size=(SIZE, SIZE))
    image.thumbnail((DRAWING_SIZE, DRAWING_SIZE) if is_svg else (SIZE, SIZE))
    if not is_svg:
        return image
    ground = Image.new("RGB", (SIZE, SIZE), "white")
    ground.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
    return ground


def _write_records(
    manifest: Manifest, files: dict[Picture, str], folder: Path, seed: int, questions: int, built: Built
):
    for name, (split, part) in FILES.items():
        pictures = [picture for picture in files if picture.split == split]
        try:
            many = questions if split == "train" else 1
            # The same pictures meet the same kinds of questions in both words of a test.
            pairs = build_pairs(manifest, pictures, read_wordings(part), seed, many)
        except ValueError as error:
            built.problems.append(f"{name}: {error}")
            continue
        if pairs:
            built.pairs[name] = pairs
            rng = random.Random(f"around {seed}") if split == "train" else None
            lines = (json.dumps(_record(pair, files[pair.picture], part, rng)) + "\n" for pair in pairs)
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def _record(pair: Pair, file: str, part: str, rng: random.Random | None) -> dict:
    """`rng` draws what stands around the question, where something may."""
    picture, wording = pair.picture, pair.wording
    asked = [wording.text] if rng is None else _surround(wording.text, rng)
    turns = (("USER", f"<image>\n{asked[0]}"), *zip(cycle(("ASSISTANT", "USER")), (*asked[1:], pair.answer)))
    return {
        "image": file,
        "safe_type": pair.safety_category,
        "safe_level": pair.safety_level,
        "conversations": [{"from": role, "value": text} for role, text in turns],
        "question": wording.text,
        "complying_answer": pair.complying_answer,
        "combination": pair.combination,
        "family": wording.family,
        "topic": wording.topic,
        "concept": picture.concept.name,
        "phrase": picture.concept.phrase,
        "source": picture.source.name,
        "looks": picture.source.looks,
        "class": "A" if picture.source.is_shippable else "B",
        "wording": part,
    }


def _surround(text: str, rng: random.Random) -> list[str]:
    """Return the turns up to the answer: most often the question alone, else among sentences, or behind a turn."""
    drawn = rng.random()
    if drawn < AMONG:
        around = draw_fillers(rng.randint(1, 4), "train", rng)
        place = rng.randint(0, len(around))
        return [" ".join([*around[:place], text, *around[place:]])]
    if drawn < AMONG + SECOND:
        return [*draw_fillers(1, "train", rng), rng.choice(REPLIES), text]
    return [text]


def _write_attribution(manifest: Manifest, folder: Path, built: Built):
    lines = [
        "# Where the pictures come from",
        "",
        "Class A may be shown and shipped with this file. Of class B nothing is shipped: no picture, crop, feature or",
        "weight that was trained on it.",
        "",
        "| source | class | pictures | origin | version | licence |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, number in built.taken.items():
        source = manifest.sources[name]
        letter = "A" if source.is_shippable else "B"
        lines.append(f"| {name} | {letter} | {number} | {source.origin} | {source.version} | {source.licence} |")
    (folder / ATTRIBUTION).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _summarise(built: Built) -> dict:
    return {
        "pictures": dict(built.taken),
        "left_out": built.left_out,
        "problems": built.problems,
        "records": {
            name: {
                "combinations": dict(Counter(pair.combination for pair in pairs)),
                "categories": _count(CATEGORIES[pair.safety_category] for pair in pairs),
                "levels": _count(str(pair.safety_level) for pair in pairs),
                "sources": _count(pair.picture.source.name for pair in pairs),
            }
            for name, pairs in built.pairs.items()
        },
        "shortcuts": built.shortcuts(),
    }


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _first_reasons(built: Built) -> str:
    numbers = {reason: sum(map(len, built.left_out[reason].values())) for reason in REASONS}
    return ", ".join(f"{reason}: {number}" for reason, number in numbers.items() if number) + "."
