"""Records on disk: JSON lines with local images, in two forms that are read as one.

The published form (SafeVLM, arXiv 2405.13581), where `<image>` in a user turn is the place of the image:

    {"image": "a.jpg", "safe_type": 1, "safe_level": 3,
     "conversations": [{"from": "USER", "value": "<image>\\nWhat is this?"}, {"from": "ASSISTANT", "value": "..."}]}

The `messages` form of transformers' chat templates, where a content part is the place and typed text is only text:

    {"images": ["a.png"], "safety_category": "privacy", "safety_level": "high",
     "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
                  {"role": "assistant", "content": "..."}]}

Categories and levels are names or indices in either form: one for the record, or a list with one per image
(`"safety_level": ["safe", "high"]`). `"a.jpg<split>b.jpg"` is two images joined side by side into one. A record
without an image is plain text: it has no verdict, and its labels are -100.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from tqdm.auto import tqdm

from ..extras import needs_extra
from ..modeling.configuration_safety import SAFE
from ..modeling.image_loading import open_image


if TYPE_CHECKING:
    import datasets


logger = logging.getLogger(__name__)

IMAGE_MARK = "<image>"
JOIN_MARK = "<split>"
WEB_ADDRESS = re.compile(r"\s*(https?|ftp)://", re.IGNORECASE)
IGNORE_INDEX = -100
MAX_LISTED_PROBLEMS = 10
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
PUBLISHED_KEYS = ("image", "safe_type", "safe_level", "conversations")
MESSAGES_KEYS = ("images", "safety_category", "safety_level", "messages")


class RecordError(ValueError):
    """Bad records of a file. `problems` holds all of them as "file:line: reason"; the message lists the first ten, a
    line each, and names the command that lists all."""

    def __init__(self, path: str | os.PathLike, problems: Sequence[str]):
        self.path, self.problems = path, list(problems)
        listed = [f"- {problem}" for problem in self.problems[:MAX_LISTED_PROBLEMS]]
        if len(self.problems) > MAX_LISTED_PROBLEMS:
            listed.append(f"... and {len(self.problems) - MAX_LISTED_PROBLEMS} more")
        title = f"{len(self.problems)} bad record{'s' * (len(self.problems) != 1)}:"
        advice = f"`safevlm data check {path}` lists all of them, and loads no model."
        super().__init__("\n".join([title, *listed, advice]))

    # By default an exception is unpickled from its message alone; a worker process hands this one over as it is.
    def __reduce__(self):
        return RecordError, (self.path, self.problems)


class _BadRecord(Exception):
    """The reason why one record cannot be used."""


def load_records(
    path: str | os.PathLike,
    categories: Sequence[str],
    levels: Sequence[str],
    image_root: str | os.PathLike | None = None,
    skip_bad_records: bool = False,
) -> datasets.Dataset:
    """Read a JSON lines file and check every record and image before anything is trained on it.

    Args:
        path: the file; empty lines are passed over.
        categories: names of the risk categories, one of them `"safe"`.
        levels: names of the risk levels, rising, the first one safe.
        image_root: where relative image paths begin; the file's folder if not given.
        skip_bad_records: leave bad records out, and log how many and which, instead of raising.

    Returns:
        A dataset with `messages` (content lists of `{"type": "image"}` and `{"type": "text", "text": ...}`), `images`
        (absolute paths, for `load_image`), `image_categories` and `image_levels` (indices, one per image),
        `safety_category` and `safety_level` (those of the image with the highest level; -100 without an image),
        `source` ("file:line") and `extra` (the record's other keys, as JSON).

    Raises:
        RecordError: there are bad records (all of them are listed), or none is left after skipping.
        FileNotFoundError: the file does not exist.
    """
    with needs_extra("eval"):
        import datasets

    records, problems = read_records(path, categories, levels, image_root)
    if problems and not (skip_bad_records and records):
        raise RecordError(path, problems)
    if problems:
        # The log names every one: a skipped record must not go unnoticed.
        total = len(records) + len(problems)
        logger.warning(
            "Skipped %d of %d records:\n%s", len(problems), total, "\n".join(f"- {one}" for one in problems)
        )
    text, number = datasets.Value("string"), datasets.Value("int64")
    features = datasets.Features(
        messages=[{"role": text, "content": [{"type": text, "text": text}]}],
        images=[text],
        safety_category=number,
        safety_level=number,
        image_categories=[number],
        image_levels=[number],
        source=text,
        extra=text,
    )
    return datasets.Dataset.from_list(records, features=features)


def read_records(
    path: str | os.PathLike,
    categories: Sequence[str],
    levels: Sequence[str],
    image_root: str | os.PathLike | None = None,
) -> tuple[list[dict], list[str]]:
    """Return the good records of a file, and what is wrong with the others as "file:line: reason"; arguments as for
    [`load_records`]. Every image is decoded once."""
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    content = path.read_bytes()
    # A picture or an archive, named by mistake, would give thousands of broken lines: one sentence says it.
    if b"\0" in content[:4096]:
        return [], [f"{path}: it is no text file, expected JSON lines"]
    parsed: list[tuple[str, dict | str]] = []  # each line's record, or the reason why there is none
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            parsed.append((f"{path}:{number}", _parse_line(line, root, tuple(categories), tuple(levels))))
        except _BadRecord as bad:
            parsed.append((f"{path}:{number}", str(bad)))
    image_problems = _find_image_problems(record for _, record in parsed if isinstance(record, dict))
    records, problems = [], []
    for source, record in parsed:
        if isinstance(record, str):
            problems.append(f"{source}: {record}")
            continue
        found = (image_problems[reference] for reference in record["images"])
        reason = next((problem for problem in found if problem is not None), None)
        if reason is not None:
            problems.append(f"{source}: {reason}")
        else:
            records.append({**record, "source": source})
    return records, problems if parsed else [f"{path}: no records"]


def load_image(reference: str | os.PathLike) -> Image.Image:
    """Open an image of a record as RGB of 8 bits, upright (EXIF), the first frame, on white; two or more paths with
    `<split>` between are joined side by side.

    Joined images take the height of the first. The processor reads images in the same way.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image, is cut off, has more pixels than Pillow allows (`Image.MAX_IMAGE_PIXELS`), or
            one side more than 200 times the other.
    """
    images = [_load_one(path) for path in os.fspath(reference).split(JOIN_MARK)]
    if len(images) == 1:
        return images[0]
    height = images[0].height
    images = [image.resize((max(1, round(image.width * height / image.height)), height)) for image in images]
    joined = Image.new("RGB", (sum(image.width for image in images), height))
    left = 0
    for image in images:
        joined.paste(image, (left, 0))
        left += image.width
    return joined


def place_images(
    messages: Iterable[Mapping[str, Any]],
    images: Iterable[str],
    load: Callable[[str], Image.Image] = load_image,
) -> list[dict]:
    """Return the messages with the images, of which `images` are the references for `load`, in their places."""
    left = iter(images)
    return [
        {
            "role": message["role"],
            "content": [
                {"type": "image", "image": load(next(left))}
                if part["type"] == "image"
                else {"type": part["type"], "text": part["text"]}
                for part in message["content"]
            ],
        }
        for message in messages
    ]


def _load_one(path: str, draft_size: tuple[int, int] | None = None) -> Image.Image:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"image not found: {path}")
    return open_image(path, draft_size)


def _find_image_problems(records: Iterable[dict]) -> dict[str, str | None]:
    """Decode every image once, and return what is wrong with it, by reference."""

    def problem(reference: str) -> str | None:
        try:
            for path in reference.split(JOIN_MARK):
                _load_one(path, draft_size=(64, 64))  # a JPEG is read whole, but decoded at an eighth of its size
        except (OSError, ValueError) as error:
            return str(error)
        return None

    references = list(dict.fromkeys(reference for record in records for reference in record["images"]))
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the interpreter's lock
        problems = pool.map(problem, references)
        shown = tqdm(problems, "checking pictures", len(references), unit="picture", disable=None, leave=False)
        return dict(zip(references, shown, strict=True))


# --------------------------------------------------------------------------------------------------
# One line to one record
# --------------------------------------------------------------------------------------------------


def _parse_line(line: bytes, root: Path, categories: tuple[str, ...], levels: tuple[str, ...]) -> dict:
    try:
        record = json.loads(line.decode("utf-8-sig"))
        json.dumps(record, ensure_ascii=False).encode()  # half of a surrogate pair is no character
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, too
        raise _BadRecord(f"broken JSON: {error}") from error
    if not isinstance(record, dict):
        raise _BadRecord(f"a line must be a JSON object, got {type(record).__name__}")
    is_published = "conversations" in record
    if is_published == ("messages" in record):
        raise _BadRecord("needs either 'conversations' (published form) or 'messages'")

    image_key, category_key, level_key, turns_key = PUBLISHED_KEYS if is_published else MESSAGES_KEYS
    images = _parse_images(record.get(image_key), image_key, root)
    messages = _parse_turns(record[turns_key], turns_key, is_published)
    _check_turns(messages, turns_key)
    num_marks = sum(part["type"] == "image" for message in messages for part in message["content"])
    if num_marks != len(images):
        # In a message the place of an image is a content part: text is never searched for it.
        mark = IMAGE_MARK if is_published else '{"type": "image"}'
        raise _BadRecord(f"{num_marks} {mark} in '{turns_key}', but {len(images)} image(s) in '{image_key}'")

    labels = _parse_labels(record, category_key, level_key, categories, levels, len(images))
    known = PUBLISHED_KEYS if is_published else MESSAGES_KEYS
    return {
        "messages": messages,
        "images": images,
        **labels,
        "extra": json.dumps({key: value for key, value in record.items() if key not in known}, sort_keys=True),
    }


def _parse_labels(record, category_key, level_key, categories, levels, num_images: int) -> dict:
    """Return category and level of every image, and those of the image with the highest level."""
    image_categories = _parse_label(record, category_key, categories, num_images)
    image_levels = _parse_label(record, level_key, levels, num_images)
    for category, level in zip(image_categories, image_levels):
        if (categories[category] == SAFE) != (level == 0):
            raise _BadRecord(
                f"contradiction: {category_key} is {categories[category]!r}, but {level_key} is {levels[level]!r}"
            )
    # Of images with equal levels the first one gives the record's category.
    strictest = max(range(num_images), key=image_levels.__getitem__, default=None)
    return {
        "image_categories": image_categories if num_images else [],
        "image_levels": image_levels if num_images else [],
        "safety_category": IGNORE_INDEX if strictest is None else image_categories[strictest],
        "safety_level": IGNORE_INDEX if strictest is None else image_levels[strictest],
    }


def _parse_images(value, key: str, root: Path) -> list[str]:
    """Return absolute references; a joined pair stays one reference."""
    references = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(references, list) or not all(isinstance(item, str) and item for item in references):
        raise _BadRecord(f"'{key}' must be a path or a list of paths, got {value!r}")
    # A file of records must not make this machine ask others for something.
    addresses = [item for item in references if any(WEB_ADDRESS.match(part) for part in item.split(JOIN_MARK))]
    if addresses:
        raise _BadRecord(
            f"'{key}' is a web address, {addresses[0][:200]!r}: download the image first, and name the file here"
        )
    return [
        JOIN_MARK.join(os.path.abspath(root / part) for part in reference.split(JOIN_MARK)) for reference in references
    ]


def _parse_label(record: dict, key: str, names: tuple[str, ...], num_images: int) -> list[int]:
    """Return one index per image, from a list or from one label for all; a text's label is checked, and has one
    index."""
    value = record.get(key)
    if value is None:
        if num_images:
            raise _BadRecord(f"missing '{key}'")
        return []
    if not isinstance(value, list):
        return [_parse_name(value, key, names)] * max(1, num_images)
    if len(value) != num_images:
        raise _BadRecord(f"{key} has {len(value)} labels for {num_images} image(s), expected one per image")
    return [_parse_name(item, key, names) for item in value]


def _parse_name(value, key: str, names: tuple[str, ...]) -> int:
    if isinstance(value, str) and value in names:
        return names.index(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return value
    raise _BadRecord(f"{key} is {value!r}, expected 0 to {len(names) - 1} or one of {', '.join(map(repr, names))}")


def _parse_turns(turns, key: str, is_published: bool) -> list[dict]:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise _BadRecord(f"'{key}' must be a list of objects")
    role_key, content_key = ("from", "value") if is_published else ("role", "content")
    messages = []
    for turn in turns:
        for needed in (role_key, content_key):
            if needed not in turn:
                raise _BadRecord(f"a turn in '{key}' has no '{needed}'")
        role = ROLES.get(str(turn[role_key]).lower())
        if role is None:
            raise _BadRecord(f"unknown role {turn[role_key]!r} in '{key}', expected user, assistant or system")
        content = turn[content_key]
        if role == "assistant" and IMAGE_MARK in json.dumps(content):
            raise _BadRecord(f"{IMAGE_MARK} in an assistant turn")
        parts = _split_marks(content) if is_published and role == "user" else _parse_content(content, role)
        messages.append({"role": role, "content": parts})
    return messages


def _split_marks(text) -> list[dict]:
    """Split a published user turn: every `<image>` becomes an image part, the text around it text parts."""
    if not isinstance(text, str):
        raise _BadRecord(f"a user turn must be text, got {type(text).__name__}")
    parts = []
    for index, piece in enumerate(text.split(IMAGE_MARK)):
        parts += [{"type": "image", "text": None}] if index else []
        piece = piece.strip("\n") if IMAGE_MARK in text else piece  # the line break belongs to the mark
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts


def _parse_content(content, role: str) -> list[dict]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise _BadRecord(f"content must be text or a list of parts, got {type(content).__name__}")
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append({"type": "text", "text": part["text"]})
        elif kind == "image" and role == "user":
            # Every part has every key, for a data set's column has one type. What else the part holds is dropped: the
            # template would read a path or an address that nothing here has checked.
            parts.append({"type": "image", "text": None})
        elif kind == "image":
            raise _BadRecord(f"an image in {'an assistant' if role == 'assistant' else 'a system'} turn")
        else:
            raise _BadRecord(f"unknown content part {part!r}")
    return parts


def _check_turns(messages: list[dict], key: str) -> None:
    roles = [message["role"] for message in messages]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if "assistant" not in spoken:
        raise _BadRecord(f"no assistant turn in '{key}'")
    if spoken[0] != "user":
        raise _BadRecord(f"the first turn in '{key}' is not the user's")
    if "system" in spoken:
        raise _BadRecord(f"a system turn in '{key}' that is not the first")
    for message in messages:
        if message["role"] == "assistant" and not any(part["text"].strip() for part in message["content"]):
            raise _BadRecord(f"an empty assistant turn in '{key}'")
