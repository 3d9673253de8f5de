"""Load the grammar of refusing for `rules.py`: a file of patterns per language in `refusals/`.

The patterns describe sentences and know no list of answers. A refusal has a speaker (the model: "I", "we", or nobody
at the start), a negation (cannot, will not, do not), and an act that is denied to the user. Where seeing or knowing is
denied, nothing is refused: "I can't read the small print". Beside each pattern stand a sentence that it must match and
one that it must not, which the tests read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...strict_data import parse_yaml


FOLDER = Path(__file__).with_name("refusals")
LANGUAGES = ("en", "de", "es", "fr", "zh")
"""Codes as in `REFUSALS` of the fixed refusals."""


@dataclass(frozen=True)
class Pattern:
    """A regular expression, a sentence that it must match and one that it must not match."""

    regex: str
    match: str
    no_match: str


CLAUSE_LISTS = ("refusals", "negations", "unknown", "deflections", "sympathy", "harm", "offers", "disclaimers")
TEXT_LISTS = ("care", "reported", "drafts", "complies")
LISTS = (*CLAUSE_LISTS, *TEXT_LISTS)
"""Lists of a file, which says what each is for: patterns for one clause, and for a whole text."""


def load_grammar(file: Path) -> dict[str, tuple[Pattern, ...]]:
    """Read one language's file: its patterns, by the names of the lists.

    Raises:
        ValueError: it is not a mapping of `parts` and all lists, or something is wrong with an entry, which is named.
    """
    content = parse_yaml(file.read_bytes(), file.name)
    if not isinstance(content, Mapping) or set(content) != {"parts", *LISTS}:
        raise ValueError(f"{file.name}: expected a mapping with parts, {', '.join(LISTS)}, and nothing else.")
    parts: dict[str, str] = {}
    for name, text in _checked(content["parts"], Mapping, f"{file.name}, parts").items():
        where = f"{file.name}, part {name!r}"
        parts[name] = _expand(_checked(text, str, where), parts, where)
    lists = {}
    for name in LISTS:
        entries = enumerate(_checked(content[name], list, f"{file.name}, {name}"), 1)
        lists[name] = tuple(_read_entry(one, parts, f"{file.name}, {name}, entry {number}") for number, one in entries)
    return lists


def _read_entry(entry: Any, parts: Mapping[str, str], where: str) -> Pattern:
    keys = {"pattern", "match", "no_match"}
    if not isinstance(entry, Mapping) or set(entry) != keys or not all(isinstance(one, str) for one in entry.values()):
        raise ValueError(f"{where}: expected the texts pattern, match and no_match, found {entry!r}.")
    regex = _expand(entry["pattern"], parts, where)
    try:
        re.compile(regex)
    except re.error as error:
        raise ValueError(f"{where}: {regex!r} is no regular expression: {error}.") from None
    return Pattern(regex, entry["match"], entry["no_match"])


def _expand(text: str, parts: Mapping[str, str], where: str) -> str:
    """Join the lines of a pattern, and put in the parts that it names. A gap as in `.{0,40}` is no name."""

    def part(name: re.Match) -> str:
        if name[1] not in parts:
            raise ValueError(f"{where}: no part {name[0]} stands above it in `parts`.")
        return parts[name[1]]

    joined = "".join(line.strip() for line in text.splitlines())
    return re.sub(r"\{([a-z_]+)\}", part, joined)


def _checked(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{where}: expected a {kind.__name__.lower()}, found {value!r}.")
    return value


GRAMMARS = {language: load_grammar(FOLDER / f"{language}.yaml") for language in LANGUAGES}
