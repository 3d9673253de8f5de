"""Answers on disk, so that a run that was stopped goes on where it was, and no question is answered twice."""

import math
import os
from collections.abc import Mapping
from dataclasses import fields, replace

from ...items import Answer, Item
from ...strict_data import check_keys, digest, shorten
from .cache import JsonLinesCache
from .fingerprints import prompt_hash
from .protocol import Protocol
from .system import System


KEPT = tuple(field.name for field in fields(Answer) if field.name != "item_id")


class AnswerCache:
    """Answers by what decides them: the system, the protocol's part about answers, and the prompt with its images.

    Two items with one prompt share an answer. Labels and judges change no key, so a benchmark whose labels were
    corrected is judged anew from the same answers.

    Args:
        path: a `JsonLinesCache`; several systems and protocols may share it, one run at a time.

    Raises:
        RuntimeError, ValueError: as `JsonLinesCache`.
    """

    def __init__(self, path: str | os.PathLike, system: System, protocol: Protocol):
        self._cache = JsonLinesCache(path)
        self._run = (system.fingerprint, protocol.answer_hash)

    def __enter__(self) -> "AnswerCache":
        return self

    def __exit__(self, *_):
        self.close()

    def get(self, item: Item) -> Answer | None:
        """Return the answer to the item's prompt; `None` if it has not been given yet.

        Raises:
            ValueError: an image is not there, or the cache holds something else than an answer.
        """
        kept = self._cache.get(self._key(item))
        if kept is None:
            return None
        if isinstance(kept, Mapping):  # older answers were kept without their actions
            kept = {"actions": [], **kept}
        return Answer(item_id=item.id, **check_keys(kept, KEPT, f"{self._cache.path}: an answer"))

    def put(self, item: Item, answer: Answer) -> Answer:
        """Keep an answer and return what is kept: the first one that was given, a failed one too. Risk and
        probabilities that are no finite numbers, which JSON does not have, are kept as `None`.

        Raises:
            ValueError: the answer is to another item.
        """
        if answer.item_id != item.id:
            raise ValueError(f"the answer is to item {shorten(answer.item_id)}, the item is {shorten(item.id)}")
        value = {name: _finite(getattr(answer, name)) for name in KEPT}
        kept = self._cache.put(self._key(item), value)
        return replace(answer, item_id=item.id, **kept)

    def flush(self):
        self._cache.flush()

    def close(self):
        self._cache.close()

    def _key(self, item: Item) -> str:
        return digest([*self._run, prompt_hash(item)])


def _finite(value):
    value = dict(value) if isinstance(value, Mapping) else value
    numbers = value.values() if isinstance(value, dict) else (value,)
    is_finite = all(math.isfinite(one) for one in numbers if isinstance(one, float))
    return value if is_finite else None
