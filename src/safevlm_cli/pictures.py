"""Find and open the pictures that a command line names."""

import glob
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from .addresses import is_address, open_public
from .showing import make_console, plain


MOST_NAMED = 5


def find_pictures(names: Iterable[str]) -> list[str]:
    """Return the files and addresses behind the names, in their order.

    A name is a file, a folder (all pictures below it, by their endings; a line on stderr names what is left out), a
    pattern, an http(s) address, or "-" for standard input with one file, folder or address per line. A name that
    stands for nothing stays as it is, and [`open_named`] raises for it.
    """
    found = []
    for name in names:
        meant: Iterable[str] = [name]
        if name == "-":
            if hasattr(sys.stdin, "reconfigure"):
                sys.stdin.reconfigure(errors="surrogateescape")  # a file's name may be any bytes
            meant = filter(None, (line.rstrip("\r\n") for line in sys.stdin))
        # A file may have a name that looks like a pattern.
        elif glob.has_magic(name) and not os.path.lexists(name) and not is_address(name):
            meant = sorted(glob.glob(name, recursive=True)) or [name]
        for each in meant:
            found += _pictures_below(each) if os.path.isdir(each) else [each]
    return found


def open_named(name: str):
    """Open the RGB image of a file or of an http(s) address on the public network.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no readable picture, or too large (see `modeling/image_loading.py`).
    """
    from safevlm_hf.modeling.image_loading import open_image

    return open_image(name, urlopen=open_public) if is_address(name) else open_picture(Path(name))


def open_picture(path: Path):
    """Open the RGB image of a file. A name is never an address or base64 here."""
    from safevlm_hf.modeling.image_loading import open_image

    if path.is_dir():
        raise FileNotFoundError(f"no pictures in the folder: {path}")
    if not path.is_file():
        raise FileNotFoundError(f"image not found: {path}")
    return open_image(path)


def _pictures_below(folder: str) -> list[str]:
    from PIL import Image

    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found: list[str] = []
    left_out: list[str] = []

    def fail(error: OSError):
        raise error  # by itself `os.walk` skips folders that it cannot read

    for root, folders, files in os.walk(folder, onerror=fail):
        left_out += [path for name in folders if os.path.islink(path := os.path.join(root, name))]
        for name in files:
            is_picture = os.path.splitext(name)[1].lower() in endings
            (found if is_picture else left_out).append(os.path.join(root, name))
    if left_out:
        # Somebody may hide a picture behind another name.
        note = f"Left out, without a picture's ending or as links to folders: {len(left_out)} below {folder}"
        named = ", ".join(sorted(left_out)[:MOST_NAMED]) + ", ..." * (len(left_out) > MOST_NAMED)
        make_console(stderr=True).print(plain(f"{note}: {named}"), soft_wrap=True)
    return sorted(found) or [folder]
