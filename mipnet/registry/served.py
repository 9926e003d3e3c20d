"""The registered model as MLflow runs it: images and boxes in, poses out (models from code).

Text is always base64 of an encoded picture, never a path: whoever can send requests to a server must not read
its files. Arrays and ``pathlib`` paths, which no request can hold, are for callers in Python.

This file is copied into every registered version, so it imports the public face of ``mipnet`` only.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

import mipnet


class PoseModel(PythonModel):
    """Rows with ``image`` and optionally ``boxes`` ([[x, y, w, h], ...]; without it the whole image is one).

    ``image`` is base64 of an encoded picture; in Python also its (H, W, 3) uint8 RGB pixels, or a
    ``pathlib.Path`` of its file.
    """

    def load_context(self, context: Any) -> None:
        self.predictor = mipnet.load_predictor(context.artifacts["network"])

    # MLflow derives signatures from annotations of this method; the registered signature says more.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """For each row the poses of its picture, best first, as COCO results with instance and box."""
        rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else model_input
        # One after the other: all pictures of a large batch at once would fill the memory.
        return [self._poses(row, number) for number, row in enumerate(rows)]

    def _poses(self, row: dict[str, Any], number: int) -> list[dict[str, Any]]:
        """The poses of one row.

        Raises:
            MlflowException: the row is not usable; the server answers 400 with its message.
        """
        image, boxes = row.get("image"), row.get("boxes")
        if isinstance(boxes, float) and np.isnan(boxes):  # a table's cell of a row without boxes
            boxes = None
        try:
            if image is None or isinstance(image, str | bytes):
                image = _decode_base64(image)
            return self.predictor(image, boxes).to_coco()
        except ValueError as error:
            raise MlflowException(f"row {number}: {error}", INVALID_PARAMETER_VALUE) from None


def _decode_base64(text: str | bytes | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except ValueError:
        raise ValueError("'image' is not the base64 of a picture") from None


set_model(PoseModel())
