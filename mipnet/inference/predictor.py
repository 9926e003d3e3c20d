"""Kept for models registered by version 0.1.0, which import it and ``mipnet.data.crops.decode_image``.

All other code imports ``mipnet``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mipnet.inference.image_predictor import ImagePredictor


class Predictor(ImagePredictor):
    """``ImagePredictor`` under its old name, with the old call."""

    def poses(self, image: np.ndarray, boxes: np.ndarray) -> list[dict[str, Any]]:
        """The poses as COCO results."""
        return self(image, boxes).to_coco()
