"""The header of an image file: size and EXIF orientation, known before a pixel is decoded."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

MAX_PIXELS = 2**27
"""Of a picture: 400 MB once it is decoded. A file of 73 KB may hold 600 million pixels."""
ORIENTATION_TAG = 0x0112
TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


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
        return (self.height, self.width) if self.orientation in TURNED else self.stored


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
        with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as picture:
            warnings.simplefilter("ignore")  # of tags that are odd; the size is all that counts
            orientation = picture.getexif().get(ORIENTATION_TAG, 1)
            width, height = picture.size
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return ImageHeader(width, height, orientation if orientation in range(1, 9) else 1)
