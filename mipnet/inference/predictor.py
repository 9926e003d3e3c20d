"""What models registered by version 0.1.0 import: they load for good. Everything else imports ``mipnet``.

Their code also takes ``decode_image`` from ``mipnet.data.crops``.
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
