"""The registered model as MLflow runs it: images and boxes in, poses out (models from code)."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from mipnet.data.crops import decode_image
from mipnet.errors import DataError
from mipnet.inference.predictor import Predictor


class PoseModel(PythonModel):
    """Rows with ``image`` (base64 of an encoded picture) and optionally ``boxes`` ([[x, y, w, h], ...])."""

    def load_context(self, context: Any) -> None:
        self.predictor = Predictor.load(context.artifacts["network"])

    # MLflow derives signatures from annotations of this method; the registered signature says more.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """For each row the poses of its picture, best first, as COCO results with instance and box."""
        rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else model_input
        return [self._poses(row) for row in rows]

    def _poses(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            image = decode_image(base64.b64decode(row["image"], validate=True))
        except (KeyError, TypeError, binascii.Error):
            image = None
        if image is None:
            raise DataError("'image' is not the base64 of a picture")
        boxes = row.get("boxes")
        if boxes is None or len(boxes) == 0:
            boxes = [[0, 0, image.shape[1], image.shape[0]]]
        table = np.array([list(map(float, box)) for box in boxes])
        return self.predictor.poses(image, table)


set_model(PoseModel())
