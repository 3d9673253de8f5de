"""Texts that stand on both sides: runs of 13 words, as the field counts them, and shorter texts whole."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


NUM_WORDS = 13
MAX_NAMED = 5
"""Sources that are named for each run of words; a template's would be all of them."""
# A character of Chinese or Japanese is a word: nothing stands between their words.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


@dataclass
class Sources:
    """Places where a run of words was found: the first `MAX_NAMED` names, and how many there are in each file."""

    names: list[str] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)

    def add(self, name: str):
        self.files[name.rpartition(":")[0]] += 1
        if len(self.names) < MAX_NAMED:
            self.names.append(name)


def runs(text: str) -> list[tuple[str, ...]]:
    """Return all runs of 13 words of a text, in lower case and without punctuation; a shorter text is one run, if it
    has words. Two texts of fewer than 13 words share a run only where they are equal."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    if len(words) < NUM_WORDS:
        return [tuple(words)] if words else []
    return [tuple(words[start : start + NUM_WORDS]) for start in range(len(words) - NUM_WORDS + 1)]


def find_shared(
    wanted: Mapping[str, Iterable[str]], texts: Iterable[tuple[str, str]]
) -> dict[str, dict[tuple[str, ...], Sources]]:
    """Find the runs of words that both sides have.

    Args:
        wanted: id of each item to its texts.
        texts: pairs of a source ("file:line") and a text, of the other side. Only the runs of `wanted` are kept in
            memory.

    Returns:
        The ids that share something, to the runs that they share and where these stand.
    """
    by_id = {name: list(dict.fromkeys(run for text in own for run in runs(text))) for name, own in wanted.items()}
    found = {run: Sources() for own in by_id.values() for run in own}
    for source, text in texts:
        for run in found.keys() & {*runs(text)}:
            found[run].add(source)
    shared = {name: {run: found[run] for run in own if found[run].files} for name, own in by_id.items()}
    return {name: own for name, own in shared.items() if own}
