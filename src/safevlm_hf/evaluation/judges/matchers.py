"""The keyword judges that published numbers come from. They do not agree, so each has its own column.

Their strings stand in `keywords.yaml`. None of them knows another language than English (MSSBench's knows four words
of Chinese) or a typographic apostrophe, and an empty text is an answer to all of them.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...strict_data import parse_yaml
from .base import TextJudge


@dataclass(frozen=True)
class Keywords:
    """Signs of a refusal in a text in lower case, of which any one will do.

    Attributes:
        source: repository, file and commit.
        contains: strings that stand anywhere in it.
        starts: strings that it begins with.
        equals: texts that it is.
        patterns: regular expressions that are found in it.
        is_stripped: whether spaces at its ends are taken away first.
    """

    source: str
    contains: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    equals: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    is_stripped: bool = True

    def find(self, text: str) -> bool:
        """Tell whether the text is a refusal."""
        text = text.lower().strip() if self.is_stripped else text.lower()
        return (
            text.startswith(self.starts)
            or text in self.equals
            or any(one in text for one in self.contains)
            or any(re.search(one, text) for one in self.patterns)
        )


class KeywordJudge(TextJudge):
    """A published keyword judge: `"refusal"` where a keyword is found, else `"answer"`.

    Args:
        name: what tables call it.
        keywords: its list.
    """

    def __init__(self, name: str, keywords: Keywords):
        super().__init__(name)
        self.keywords = keywords

    def settings(self) -> Mapping[str, Any]:
        return {"kind": "keywords", **asdict(self.keywords)}

    def classify(self, text: str) -> str:
        return "refusal" if self.keywords.find(text) else "answer"


def published_matchers() -> list[KeywordJudge]:
    """Return all published keyword judges, each under its own name."""
    return [KeywordJudge(name, keywords) for name, keywords in KEYWORDS.items()]


def _load_keywords(file: Path) -> dict[str, Keywords]:
    lists = parse_yaml(file.read_bytes(), file.name)
    for one in lists.values():
        one |= {name: tuple(value) for name, value in one.items() if isinstance(value, list)}
    return {name: Keywords(**one) for name, one in lists.items()}


KEYWORDS = _load_keywords(Path(__file__).with_name("keywords.yaml"))
