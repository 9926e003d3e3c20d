"""The registered model as MLflow runs it: images and boxes in, poses out (models from code).

Text is always base64 of an encoded picture, never a path: whoever can send requests to a server must not read
its files. Arrays and ``pathlib`` paths, which no request can hold, are for callers in Python.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

from mipnet.data.crops import decode_image
from mipnet.inference.predictor import Predictor


class PoseModel(PythonModel):
    """Rows with ``image`` and optionally ``boxes`` ([[x, y, w, h], ...]; without it the whole image is one).

    ``image`` is base64 of an encoded picture; in Python also its (H, W, 3) uint8 RGB pixels, or a
    ``pathlib.Path`` of its file.
    """

    def load_context(self, context: Any) -> None:
        self.predictor = Predictor.load(context.artifacts["network"])

    # MLflow derives signatures from annotations of this method; the registered signature says more.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """For each row the poses of its picture, best first, as COCO results with instance and box."""
        rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else model_input
        # One after the other: all pictures of a large batch at once would fill the memory.
        return [self.predictor.poses(*_input(row, number)) for number, row in enumerate(rows)]


def _input(row: dict[str, Any], number: int) -> tuple[np.ndarray, np.ndarray]:
    """((H, W, 3) uint8 RGB, (P, 4) boxes) of a row.

    Raises:
        MlflowException: the row is not usable; the server answers 400 with its message.
    """
    image = _pixels(row.get("image"))
    if image is None:
        raise _refusal(number, "'image' is not the base64 of a picture")
    boxes = row.get("boxes")
    if boxes is None or (
        isinstance(boxes, float) and np.isnan(boxes)
    ):  # nan: a table's for what is not there
        boxes = [[0, 0, image.shape[1], image.shape[0]]]
    try:
        table = np.array([[x, y, w, h] for x, y, w, h in boxes], np.float64).reshape(-1, 4)
    except (TypeError, ValueError):
        table = np.full((1, 4), np.nan)
    if not (np.isfinite(table).all() and (table[:, 2:] > 0).all()):
        raise _refusal(number, "'boxes' is not a list of [x, y, width, height]")
    return image, table


def _pixels(image: Any) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB; None if it is no picture."""
    if isinstance(image, np.ndarray):
        return image if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 else None
    if isinstance(image, Path):
        return decode_image(image.read_bytes())
    try:
        return decode_image(base64.b64decode(image, validate=True))
    except (TypeError, ValueError, binascii.Error):
        return None


def _refusal(number: int, what: str) -> MlflowException:
    return MlflowException(f"row {number}: {what}", INVALID_PARAMETER_VALUE)


set_model(PoseModel())
