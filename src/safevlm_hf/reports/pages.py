"""HTML pages: Python prepares plain values, and the templates beside this file lay them out.

A page loads nothing from outside, and whatever comes from data is escaped.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates_of(package: str) -> Environment:
    """Load the templates in a package's folder `templates`. They escape every value, and a missing one is an error."""
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


_TEMPLATES = templates_of(__package__)


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: its heading; no two of a page are alike.
        template: what lays it out, in `templates/`.
        data: what the template shows.
        is_folded: only its heading is seen until it is opened, or a link leads there.
    """

    title: str
    template: str
    data: Mapping[str, Any]
    is_folded: bool = False

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower())


@dataclass(frozen=True)
class Picture:
    """A picture for `<img>`: its source, what it shows in words, and the caption below it."""

    source: str
    alt: str
    caption: str


def inline_picture(content: bytes, kind: str, alt: str, caption: str = "") -> Picture:
    """Embed a picture in the page itself. `kind`: "jpeg" or "png"."""
    return Picture(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", alt, caption)


def render_page(template: str, title: str, sections: Iterable[Section | None], **values: Any) -> str:
    """Render a page. Sections that are `None` are left out; `values` are further ones for the template."""
    found = [section for section in sections if section is not None]
    return _TEMPLATES.get_template(template).render(title=title, sections=found, **values)


def render_section(section: Section) -> str:
    """Render a section alone, without its heading."""
    return _TEMPLATES.get_template(section.template).render(data=section.data)
