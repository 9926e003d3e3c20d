"""What a header alone refuses: no memory is taken for a picture of too many pixels."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from mipnet.data import image_headers
from mipnet.data.crops import decode_image
from mipnet.data.image_headers import MAX_PIXELS, reason_not_to_decode
from tests.helpers.bombs import png


def encoded(kind: str, mode: str = "L", width: int = 40, height: int = 30) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
def test_the_size_is_capped_in_every_format(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(kind, "RGB")
    monkeypatch.setattr(image_headers, "MAX_PIXELS", 1200)
    assert reason_not_to_decode(content) == ""
    decoded = decode_image(content)
    assert decoded is not None
    assert decoded.shape == (30, 40, 3)
    monkeypatch.setattr(image_headers, "MAX_PIXELS", 1199)
    assert reason_not_to_decode(content) == "it has 40x30 pixels, more than 1,199"
    assert decode_image(content) is None


@pytest.mark.parametrize("size", [(2**14, 2**13 + 1), (30_000, 20_000), (200_000, 900)])
def test_a_large_picture_in_a_small_file_is_never_decoded(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is below Pillow's own limit, the others above."""
    content = png(*size)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    assert size[0] * size[1] > MAX_PIXELS
    assert "more than" in reason_not_to_decode(content)
    assert decode_image(content) is None


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
def test_what_has_no_header_is_not_decoded(content: bytes) -> None:
    assert reason_not_to_decode(content) == "its header cannot be read"
    assert decode_image(content) is None


def test_formats_that_the_header_reader_does_not_know_are_not_decoded() -> None:
    """Their size could not be capped: Radiance HDR, which OpenCV reads."""
    found, content = cv2.imencode(".hdr", np.ones((30, 40, 3), np.float32))
    assert found
    assert decode_image(content.tobytes()) is None
