"""Pictures that look alike: a difference hash of 64 bits finds candidates, and small copies confirm them.

The hash says, for 8 x 8 places of the grey picture, whether it gets brighter to the right. Another size, JPEG, another
aspect and other brightness change 0 to 5 bits of it, a crop by 2% about 6, one by 5% about 11; unrelated photographs
differ in about 32. Pages of text, screens and drawn cards are alike to the hash, so a pair counts only if its 16 x 16
copies correlate, too.

A picture of one colour has nothing that a hash could compare. It is like another one if all pixels are equal; other
pictures with equal pixels have a distance of 0 anyway.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ...modeling.image_loading import open_image


MAX_DISTANCE = 10
"""Bits. Were the bits of unrelated pictures coin flips, 10 or fewer of 64 would differ in one pair of 10^8."""
MIN_CORRELATION = 0.93
"""Of the small copies. Of unrelated photographs none reached 0.6; of pages of text in one layout, about 1% of the
pairs pass both. So a match is a pair to look at, and no proof."""
MIN_CONTRAST = 2.0
"""Standard deviation in grey levels (0 to 255) below which there is nothing for the hash: blank pictures are alike."""
THUMBNAIL = 16
BLOCK = 256  # rows that are compared at once: with 100,000 columns they take 100 MB


@dataclass(frozen=True)
class PictureHashes:
    """Hashes and small copies of n pictures.

    Attributes:
        paths: n paths, of the pictures that have something to hash.
        signs: (n, 64), float32, the bits as 1 and -1.
        thumbnails: (n, 256), uint8, grey.
        blank: path to the SHA-256 of size and pixels, of the pictures that have not.
    """

    paths: Sequence[str]
    signs: np.ndarray
    thumbnails: np.ndarray
    blank: Mapping[str, str]


def hash_pictures(paths: Iterable[str]) -> PictureHashes:
    """Return the hashes of picture files, each path once.

    Raises:
        ValueError: a picture cannot be read; the message names it.
    """
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the interpreter's lock
        found = list(tqdm(pool.map(_hash, unique), "hashing pictures", len(unique), disable=None, leave=False))
    kept = [(path, *one) for path, one in zip(unique, found, strict=True) if not isinstance(one, str)]
    return PictureHashes(
        [path for path, _, _ in kept],
        np.array([signs for _, signs, _ in kept], dtype=np.float32).reshape(-1, 64),
        np.array([thumbnail for _, _, thumbnail in kept], dtype=np.uint8).reshape(-1, THUMBNAIL**2),
        {path: one for path, one in zip(unique, found, strict=True) if isinstance(one, str)},
    )


def find_alike(ones: PictureHashes, others: PictureHashes) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Yield each path of `ones` that looks like some of `others`, with these: the number of bits in which they differ,
    and the path, the closest first."""
    by_content = defaultdict(list)  # blank pictures are alike where all of their pixels are equal
    for path, content in others.blank.items():
        by_content[content].append((0, path))
    yield from ((path, sorted(by_content[one])) for path, one in ones.blank.items() if one in by_content)
    ours, theirs = _normalise(ones.thumbnails), _normalise(others.thumbnails)
    for start in range(0, len(ones.paths), BLOCK):
        # The product of signs is 64 - 2 * distance, which matrix units count faster than integer ones.
        agreement = ones.signs[start : start + BLOCK] @ others.signs.T
        is_near = agreement >= 64 - 2 * MAX_DISTANCE
        for row in np.flatnonzero(is_near.any(axis=1)).tolist():
            columns = np.flatnonzero(is_near[row])
            columns = columns[theirs[columns] @ ours[start + row] >= MIN_CORRELATION]
            distances = (64 - agreement[row, columns]).astype(int) // 2
            if len(columns):
                paths = [others.paths[column] for column in columns]
                yield ones.paths[start + row], sorted(zip(distances.tolist(), paths, strict=True))


def _hash(path: str) -> tuple[np.ndarray, np.ndarray] | str:
    """Return signs and small copy; of a blank picture, the hash of what it holds."""
    grey = open_image(path, draft_size=(128, 128)).convert("L")
    thumbnail = np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    if thumbnail.std() < MIN_CONTRAST:
        picture = open_image(path)  # it is read once more, for a JPEG was decoded at a fraction
        return hashlib.sha256(f"{picture.size} ".encode() + picture.tobytes()).hexdigest()
    shades = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    return np.where(shades[:, 1:] > shades[:, :-1], 1, -1).ravel(), thumbnail.ravel()


def _normalise(thumbnails: np.ndarray) -> np.ndarray:
    """Return rows of length 1 around 0, whose products are correlations."""
    centred = thumbnails - thumbnails.mean(axis=1, keepdims=True, dtype=np.float32)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)
