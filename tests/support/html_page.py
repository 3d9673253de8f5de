"""A report as a browser reads it, and what holds for every one of them."""

from html.parser import HTMLParser


def hostile(field):
    """Text that would run, if a page took it for markup or for a template. It names its field."""
    return f"<script>{field}</script>\"onload='{field}' {{{{ 7*7 }}}} {{% {field} %}}"


class Page(HTMLParser):
    """Tags with their attributes and the classes of what they stand in, and all text."""

    VOID = ("meta", "img", "br", "input")

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        around = {name for _, classes in self.open for name in classes}
        self.tags.append((tag, attributes, around))
        if tag not in self.VOID:
            self.open.append((tag, (attributes.get("class") or "").split()))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes), set()))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, tag):
        return [(attributes, around) for name, attributes, around in self.tags if name == tag]

    @property
    def said(self):
        """All texts and values of attributes."""
        return "\n".join(self.texts + [value or "" for _, attributes, _ in self.tags for value in attributes.values()])


def check_page(html):
    """Nothing runs and nothing is loaded, pictures and tables say what they are, and the contents lead to sections."""
    page = Page(html)
    assert not {tag for tag, _, _ in page.tags} & {"script", "iframe", "object", "link", "foreignobject"}
    for _, attributes, _ in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    assert all(attributes["alt"] for attributes, _ in page.of("img"))
    assert all(attributes["aria-label"] and "scroll" in around for attributes, around in page.of("table"))
    assert all("plot" in around for _, around in page.of("svg"))
    assert all(attributes["aria-label"] for attributes, _ in page.of("div") if attributes.get("class") == "plot")
    num_shown = len(page.of("img")) + len([1 for attributes, _ in page.of("div") if attributes.get("class") == "plot"])
    assert len(page.of("figcaption")) == num_shown  # each has a caption
    anchors = [attributes["id"] for attributes, _ in page.of("section")]
    assert [attributes["href"] for attributes, around in page.of("a") if "contents" in around] == [
        f"#{anchor}" for anchor in anchors
    ]
    assert len(set(anchors)) == len(anchors) > 0
    return page


def contrast(one, other):
    """Of two colours, each three numbers of 0 to 255, as WCAG 2 defines it."""
    low, high = sorted(_luminance(colour) + 0.05 for colour in (one, other))
    return high / low


def _luminance(colour):
    red, green, blue = (
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in (one / 255 for one in colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
