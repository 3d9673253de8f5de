"""The documents: their links, and the site that `make docs` builds of them."""

import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


def documents() -> list[Path]:
    folders = (ROOT, ROOT / "docs", ROOT / "docs" / "api", ROOT / ".github")
    return sorted(path for folder in folders for path in folder.glob("*.md"))


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text())):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists() and linked.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(linked), target
