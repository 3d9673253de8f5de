"""Bringing a source that is not there: a clone at the manifest's commit, or a package with the manifest's hash."""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from pathlib import Path, PurePosixPath

from .manifest import Source


HOURS = 2 * 3600  # a clone may take as long; the largest has half a gigabyte
MAX_PACKAGE = 2**29
ADDRESSES = {
    "git": "https://github.com/{origin}",
    "npm": "https://registry.npmjs.org/{origin}/-/{base}-{version}.tgz",
    "deb": "https://deb.debian.org/debian/{origin}",
}


def fetch(source: Source, sources: Path, addresses: dict[str, str] = ADDRESSES):
    """
    Bring a source into the folder `sources`. Nothing half-brought stays.

    Raises:
        OSError: there is no network, or what came has another hash.
    """
    sources.mkdir(parents=True, exist_ok=True)
    base = source.origin.rpartition("/")[2]
    address = addresses[source.kind].format(origin=source.origin, base=base, version=source.version)
    temporary = Path(tempfile.mkdtemp(prefix=f".{source.folder}-", dir=sources))
    try:
        if source.kind == "git":
            _clone(address, source.version, temporary)
        else:
            content = _download(address, source.sha256)
            _unpack(content if source.kind == "npm" else _data_of_deb(content), temporary)
        temporary.chmod(0o755)
        temporary.rename(sources / source.folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _clone(address: str, commit: str, folder: Path):
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"}
    for command in (["init", "--bare", "--quiet", "."], ["fetch", "--quiet", "--depth", "1", address, commit]):
        try:
            done = subprocess.run(
                ["git", *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=HOURS
            )
        except subprocess.TimeoutExpired:
            raise OSError(f"{address}: no clone after {HOURS // 3600} hours") from None
        if done.returncode:
            raise OSError(f"{address}: {done.stderr.strip() or 'git failed'}")


def _download(address: str, sha256: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as response:
        content = response.read(MAX_PACKAGE)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise OSError(f"{address}: its sha256 is not the manifest's, {sha256}")
    return content


def _data_of_deb(content: bytes) -> bytes:
    """Return the tar archive of files in a Debian package, which is an `ar` archive."""
    place = 8
    while place + 60 <= len(content):
        name, size = content[place : place + 16].strip(), int(content[place + 48 : place + 58])
        if name.startswith(b"data.tar"):
            return content[place + 60 : place + 60 + size]
        place += 60 + size + size % 2
    raise OSError("it is no Debian package: it has no files")


def _unpack(content: bytes, folder: Path):
    """Write the plain files of a tar archive; links and names that lead out of the folder are passed over."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            parts = [part for part in PurePosixPath(member.name).parts if part != "."]
            if not member.isfile() or ".." in parts or PurePosixPath(member.name).is_absolute():
                continue
            file, data = folder.joinpath(*parts), archive.extractfile(member)
            if data is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data.read())
