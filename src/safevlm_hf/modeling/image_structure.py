"""Pictures of few pixels whose files take minutes or gigabytes to read: they are refused before Pillow reads them."""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Literal

import PIL
from PIL import features


MAX_SCANS = 100  # passes of a progressive JPEG: encoders write about ten, and each costs a pass over all pixels
MAX_PARTS = 2**14  # markers of a JPEG, chunks of a PNG, blocks of a GIF: Pillow reads them one by one
MAX_PROFILES = 8  # colour profiles of a PNG, each of which is unpacked
MAX_EXIF_SEGMENTS = 16  # Pillow copies what it has of them for each one in a JPEG
MAX_TABLES = 2**14  # bytes of a JPEG's tables, which Pillow takes apart, and of a PNG's chromaticities
MAX_EXIF_HEADS = 4  # Pillow copies the rest of a block for each
MAX_COMMENTS = 2**16  # bytes in a GIF: Pillow copies what it has of them for each block
MAX_STRAY = 2**16  # bytes between the parts of a JPEG or a GIF: Pillow skips them one by one
MAX_ENTRIES = 2**10  # entries in all directories
MAX_NUMBERS = 2**18  # numbers in all directories: Pillow makes an object of each

EXIF_HEAD = b"Exif\x00\x00"
BYTE, TEXT, UNDEFINED = 1, 2, 7  # types that Pillow leaves as they are
UNIT_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of one value, by TIFF's number of its type."""
POINTERS = (0x8769, 0x8825, 0xA005)  # TIFF's tags of EXIF, GPS and interoperability: each is a directory


def check_structure(content: bytes | memoryview):
    """Raise `ValueError` for a file whose parts would take minutes or gigabytes to read, however few pixels it has.
    Call it before Pillow opens the file, and [`check_directory`] with the EXIF block that it then has."""
    content = bytes(content)
    if content.startswith(b"\xff\xd8"):
        _check_jpeg(content)
    elif content.startswith(b"\x89PNG"):
        _check_png(content)
    elif content.startswith(b"GIF8"):
        _check_gif(content)
    elif content.startswith((b"II", b"MM")):
        check_directory(content, POINTERS)


def check_avif(content: bytes | memoryview):
    """Check as `check_structure` does, for an AVIF: its decoder finds the EXIF block. Pillow 13 needs no check."""
    if int(PIL.__version__.partition(".")[0]) >= 13 or content[4:8] != b"ftyp" or not features.check("avif"):
        return
    from PIL.AvifImagePlugin import _avif

    exif = _avif.AvifDecoder(bytes(content), "auto", 1).get_info()[4]
    check_directory(exif or b"", POINTERS)


def check_directory(block: bytes, pointers: tuple[int, ...] = ()):
    """Raise `ValueError` where the values in a TIFF directory (EXIF has one) are larger together than the block that
    holds them: entries share their bytes, and Pillow before 13 copies them for each.

    Args:
        block: an EXIF block or a TIFF file.
        pointers: tags that stand for another directory, which is read, too.
    """
    heads = re.match(rb"(?:Exif\x00\x00)*", block).end()
    _check("EXIF heads", heads // len(EXIF_HEAD), MAX_EXIF_HEADS)
    block = block[heads:]
    if not block.startswith((b"II", b"MM")):
        return  # Pillow reads nothing of it either
    counts = dict.fromkeys(("metadata entries", "numbers as metadata", "bytes as metadata"), 0)
    limits = dict(zip(counts, (MAX_ENTRIES, MAX_NUMBERS, len(block))))
    layout = _Layout(block)
    starts = [layout.first]  # it grows while it is read: an entry may point to another directory
    for start in starts:
        for tag, kind, value in layout.entries(start):
            counts["metadata entries"] += 1
            counts["bytes as metadata"] += len(value)
            if kind not in (BYTE, TEXT, UNDEFINED):
                counts["numbers as metadata"] += len(value) // UNIT_SIZES[kind]
            for name, count in counts.items():
                _check(name, count, limits[name])
            if tag in pointers:
                starts.append(int.from_bytes(value[: UNIT_SIZES[kind]], layout.byte_order))


class _Layout:
    """Reader of a block in TIFF's layout."""

    def __init__(self, block: bytes):
        is_big = block[2:3] == b"\x2b"  # BigTIFF
        self.block = block
        self.byte_order: Literal["big", "little"] = "big" if block[:2] == b"MM" else "little"
        self.width = 8 if is_big else 4  # bytes of an offset
        self.count_width = 8 if is_big else 2
        self.first = self._integer(self.width, self.width)

    def entries(self, start: int) -> Iterator[tuple[int, int, memoryview]]:
        """Yield tag, type and value of a directory's entries, as far as the block goes. Values beyond it are empty."""
        view, size = memoryview(self.block), 4 + 2 * self.width
        first = start + self.count_width
        end = first + size * self._integer(start, self.count_width)
        for place in range(first, min(end, len(view)), size):
            tag, kind = self._integer(place, 2), self._integer(place + 2, 2)
            length = self._integer(place + 4, self.width) * UNIT_SIZES.get(kind, 0)
            at = place + 4 + self.width
            if length > self.width:
                at = self._integer(at, self.width)
            if 0 < length <= len(view) - at:
                yield tag, kind, view[at : at + length]
            else:
                yield tag, BYTE, view[:0]

    def _integer(self, place: int, width: int) -> int:
        return int.from_bytes(self.block[place : place + width], self.byte_order)


def _check(name: str, count: int, most: int):
    if count > most:
        raise ValueError(f"more than {most} {name}, as no picture needs: save it anew")


# --------------------------------------------------------------------------------------------------
# JPEG
# --------------------------------------------------------------------------------------------------

ALONE = (0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE))  # markers without a segment, by their second byte
SCAN, APP1, APP2 = 0xDA, 0xE1, 0xE2
TABLES = (0xDB, 0xDE, *({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}))  # tables of quantisation, and a frame's channels
INDEX_HEAD = b"MPF\x00"  # it begins the index of a file of several pictures


def _check_jpeg(content: bytes):
    # Among coded pixels a zero follows each 0xFF, or a restart mark.
    _check("scans", content.count(b"\xff\xda"), MAX_SCANS)
    markers = re.finditer(rb"\xff[^\x00\xd0-\xd7\xff]", content)
    _check("markers", sum(1 for _ in islice(markers, MAX_PARTS + 1)), MAX_PARTS)
    segments = list(_segments(content))
    _check("bytes of tables", sum(len(segment) for name, segment in segments if name in TABLES), MAX_TABLES)
    blocks = [segment for name, segment in segments if name == APP1 and segment.startswith(EXIF_HEAD)]
    _check("EXIF segments", len(blocks), MAX_EXIF_SEGMENTS)
    check_directory(b"".join(block[len(EXIF_HEAD) :] for block in blocks))
    for name, segment in segments:
        if name == APP2 and segment.startswith(INDEX_HEAD):
            check_directory(segment[len(INDEX_HEAD) :])


def _segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield markers and their segments up to the first pixels, where Pillow finds them."""
    place, stray = 2, 0
    while 0 <= (start := content.find(b"\xff", place)) < len(content) - 1:
        name, stray = content[start + 1], stray + start - place
        place = start + 2
        if name == 0xFF:
            place -= 1
        if name in (0, 0xFF, *ALONE):
            stray += place - start
        elif name < 0xC0:
            return  # Pillow reads no further
        else:
            length = max(int.from_bytes(content[place : place + 2], "big"), 2)
            yield name, content[place + 2 : place + length]
            place += length
        _check("stray bytes", stray, MAX_STRAY)
        if name == SCAN:
            return


# --------------------------------------------------------------------------------------------------
# PNG
# --------------------------------------------------------------------------------------------------


def _check_png(content: bytes):
    _check("colour profiles", content.count(b"iCCP"), MAX_PROFILES)
    place, count = 8, 0
    while place + 8 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        if content[place + 4 : place + 8] == b"cHRM":
            _check("bytes of tables", length, MAX_TABLES)
        place, count = place + 12 + length, count + 1
        _check("chunks", count, MAX_PARTS)


# --------------------------------------------------------------------------------------------------
# GIF
# --------------------------------------------------------------------------------------------------

EXTENSION, PICTURE, END = b"!", b",", b";"
COMMENT, APPLICATION = b"\xfe", b"\xff"
LOOP = b"NETSCAPE2.0"


def _check_gif(content: bytes):
    """Check what stands before the first picture."""
    head = _GifHead(content)
    stray = comments = 0
    while (sign := head.read(1)) not in (b"", PICTURE, END):
        if sign != EXTENSION:
            stray += 1
            _check("stray bytes", stray, MAX_STRAY)
        elif (label := head.read(1)) == COMMENT:
            while block := head.read_block():
                comments += len(block)
                _check("bytes of comments", comments, MAX_COMMENTS)
        else:
            # Pillow takes these blocks as there, and the next one that is empty for the end.
            if head.read_block().startswith(LOOP) and label == APPLICATION:
                head.read_block()
            while head.read_block():
                pass


class _GifHead:
    """Reader of the blocks between a GIF's palette and its first picture."""

    def __init__(self, content: bytes):
        flags = content[10] if len(content) > 10 else 0
        self.content, self.blocks = content, 0
        self.place = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)

    def read(self, length: int) -> bytes:
        self.place += length
        return self.content[self.place - length : self.place]

    def read_block(self) -> bytes:
        self.blocks += 1
        _check("blocks", self.blocks, MAX_PARTS)
        return self.read(int.from_bytes(self.read(1), "little"))
