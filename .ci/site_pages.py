"""For mkdocs: documents that lie beside docs/ become pages where they lie, and links fit both the site and GitHub."""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File


ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
LINK = re.compile(r"\[([^\]\n]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files, config):
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, config, files):
    folder = os.path.dirname(page.file.abs_src_path)

    def rewrite(link: re.Match) -> str:
        text, target, anchor = link.groups(default="")
        path = Path(os.path.normpath(os.path.join(folder, target))).relative_to(ROOT).as_posix()
        uri = PAGES.get(path) or path.removeprefix("docs/")
        if uri == path and uri not in PAGES.values():
            return text  # a file of the repository that is no page
        return f"[{text}]({posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    return LINK.sub(rewrite, markdown)


def on_page_content(html, page, config, files):
    # Docstrings name classes as [`SafetyPolicy`], which is a link in Hugging Face's own builder alone.
    html = re.sub(r"\[(<code>[^<]*</code>)\]", r"\1", html)
    # On a phone a picture is too small to be read: a tap shows it in full size, as on GitHub.
    html = re.sub(r'<img [^>]*\bsrc="([^"]+)"[^>]*>', r'<a href="\1">\g<0></a>', html)
    # What a function returns has a dash in front of it, also where no type stands before that.
    return re.sub(r'(<li class="doc-section-item field-body">)\s+–', r"\1", html)
