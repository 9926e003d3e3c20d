"""Pictures whose stored pixels are turned, and an EXIF orientation that says so."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from PIL.Image import Transpose

STORED_FROM_DISPLAYED = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,  # Pillow's are counter-clockwise
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}
LOSSLESS: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True, "exact": True},
    "JPEG": {"quality": 100, "subsampling": 0},
}


def stored(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels (H, W, 3) as a camera stores them that gives them this orientation."""
    if orientation == 1:
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(STORED_FROM_DISPLAYED[orientation]))


def encoded(pixels: np.ndarray, orientation: int, kind: str = "PNG") -> bytes:
    """A file that is displayed as these pixels (H, W, 3) uint8 RGB."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(stored(pixels, orientation))
    tags: dict[str, Any] = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif.tobytes()}
    picture.save(file, kind, **(tags if orientation > 1 else {}), **LOSSLESS.get(kind, {}))
    return file.getvalue()
