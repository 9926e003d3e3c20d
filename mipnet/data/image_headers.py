"""The header of an image file: size, EXIF orientation and depth, known before a pixel is decoded."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

MAX_PIXELS = 2**27
"""Of a picture: 400 MB once it is decoded. A file of 73 KB may hold 600 million pixels."""
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""
HEAD_BYTES = 1 << 16
"""So much of a file's beginning holds the orientation of a JPEG or PNG, and nearly always the size."""

ORIENTATION, WIDTH, HEIGHT, BITS = 0x0112, 0x0100, 0x0101, 0x0102
"""Tags of TIFF, which EXIF's are, too."""
JPEG, PNG, RIFF = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF"
JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
PNM_HEAD = re.compile(rb"P([2356])(?:(?:\s|#[^\r\n]*[\r\n])+(\d{1,9})){3}\s")
"""Kind, width, height and the value of white, which is the last group, with spaces and comments between."""
JPEG_METADATA = frozenset(bytes((0xFF, kind)) for kind in (*range(0xE0, 0xF0), 0xFE))
"""Markers of the segments that come before all others: applications' and comments."""
BYTE_ORDERS: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}


@dataclass(frozen=True)
class ImageHeader:
    """Size and orientation of a picture.

    Attributes:
        width, height: of the stored pixels.
        orientation: EXIF's 1 to 8; 1 is displayed as stored.
    """

    width: int
    height: int
    orientation: int

    @property
    def stored(self) -> tuple[int, int]:
        """(width, height) of the stored pixels."""
        return self.width, self.height

    @property
    def displayed(self) -> tuple[int, int]:
        """(width, height) as people see it."""
        return (self.height, self.width) if self.orientation in SIDEWAYS else self.stored


Read = Callable[[int | None], bytes]
"""Gives so many bytes from the beginning of a file; all of them for None."""


def read_head(read: Read) -> bytes:
    """As much of a file as states orientation and depth."""
    head = read(HEAD_BYTES)
    # Directories of other formats than JPEG and PNG may be at the file's end.
    return head if len(head) < HEAD_BYTES or head.startswith((JPEG, PNG)) else read(None)


def header_of(read: Read, head: bytes | None = None) -> ImageHeader | None:
    """The header of a file, whose ``read_head`` may be known; None if it has none that can be read."""
    head = read_head(read) if head is None else head
    return read_header(head) or read_header(read(None))  # a JPEG of long metadata


def reason_not_to_decode(content: bytes) -> str:
    """Why a picture must not be decoded, by its header alone, as one clause; "" if it may.

    Args:
        content: the file, or as much of its beginning as holds the header.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as picture:
            width, height = picture.size
    except Image.DecompressionBombError:  # beyond Pillow's own limit, which is larger
        return f"it has more than {MAX_PIXELS:,} pixels"
    except Exception:  # broken bytes make Pillow's readers raise almost anything
        return "its header cannot be read"
    return f"it has {width}x{height} pixels, more than {MAX_PIXELS:,}" if width * height > MAX_PIXELS else ""


def read_header(content: bytes) -> ImageHeader | None:
    """The header of an encoded picture; None if it has none that can be read.

    Args:
        content: the file, or as much of its beginning as holds the header.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as picture:
            width, height = picture.size
            # Of AVIF, whose boxes Pillow translates to EXIF; others would be asked for their XMP, too.
            avif = picture.getexif().get(ORIENTATION, 1) if picture.format == "AVIF" else 0
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    except RuntimeError:  # libavif's, of a damaged AVIF
        return None
    if is_tiff(content):  # Pillow gives the displayed size
        width, height = _tag(content, WIDTH, width), _tag(content, HEIGHT, height)
    return ImageHeader(width, height, _valid(avif) if avif else orientation_of(content))


def orientation_of(content: bytes) -> int:
    """EXIF's orientation of an encoded picture, 1 to 8; 1 where none is stated. Takes microseconds.

    Args:
        content: the file, or its beginning.
    """
    if content.startswith(JPEG):
        exif = _jpeg_exif(content)
    elif content.startswith(PNG):
        exif = next((data for kind, data in _png_chunks(content) if kind == b"eXIf"), b"")
    elif content.startswith(RIFF):
        exif = next((data for kind, data in _webp_chunks(content) if kind == b"EXIF"), b"")
    elif is_tiff(content):
        exif = content
    elif content[4:8] == b"ftyp":
        header = read_header(content)
        return header.orientation if header else 1
    else:
        return 1
    return _valid(_tag(exif.removeprefix(b"Exif\0\0"), ORIENTATION, 1))


def is_tiff(content: bytes) -> bool:
    return content[:4] in BYTE_ORDERS


def is_deep(content: bytes) -> bool:
    """Whether a picture is a PNG, TIFF or JPEG 2000 of 16 bits a channel, or a PNM of more than 8."""
    if content.startswith(PNG):
        return content[24:25] == b"\x10"
    if content.startswith(JP2):
        bits = content[content.find(b"ihdr") + 14 :][:1]  # after height, width and number of channels
        return bits == b"\x0f"  # OpenCV scales fewer by itself
    return pnm_maxval(content) > 255 or (is_tiff(content) and _tag(content, BITS, 8) == 16)


def pnm_maxval(content: bytes) -> int:
    """The value of white in the pixels that OpenCV decodes of a PGM or PPM; 0 for other files."""
    found = PNM_HEAD.match(content)
    maxval = int(found[2]) if found else 0
    plain = found is not None and found[1] in b"23"
    return 255 if plain and maxval < 255 else maxval  # OpenCV scales 8 bits of plain ones


def is_heic(content: bytes) -> bool:
    """Whether a file is a picture of HEIF's family that is not AVIF, as iPhones write under any name."""
    brands = content[8 : int.from_bytes(content[:4], "big")]
    return content[4:8] == b"ftyp" and any(b in brands for b in (b"hei", b"hev")) and b"avi" not in brands


def _valid(orientation: int) -> int:
    return orientation if orientation in range(1, 9) else 1


def _jpeg_exif(content: bytes) -> bytes:
    at = len(JPEG)
    while (marker := content[at : at + 2]) in JPEG_METADATA:
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == b"\xff\xe1" and content[at + 4 : at + 10] == b"Exif\0\0":
            return content[at + 10 : end]
        at = end
    return b""


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(PNG)
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        kind = content[at + 4 : at + 8]
        yield kind, content[at + 8 : at + 8 + size] if kind == b"eXIf" else b""
        at += 12 + size


def _webp_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at < len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        kind = content[at : at + 4]
        yield kind, content[at + 8 : at + 8 + size] if kind == b"EXIF" else b""
        at += 8 + size + size % 2


def _tag(tiff: bytes, tag: int, absent: int) -> int:
    """The first number of a tag in the first directory of a TIFF structure; slices make all of it safe."""
    order = BYTE_ORDERS.get(tiff[:4])
    if order is None:
        return absent

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)

    begin = number(4, 4)
    for at in range(begin + 2, min(begin + 2 + 12 * number(begin, 2), len(tiff)), 12):
        if number(at, 2) == tag:
            size = 2 if number(at + 2, 2) == 3 else 4  # SHORT or LONG
            inline = size * number(at + 4, 4) <= 4
            return number(at + 8 if inline else number(at + 8, 4), size)
    return absent
