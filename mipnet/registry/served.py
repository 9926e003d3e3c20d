"""The registered model as MLflow runs it: images and boxes in, poses out (models from code).

Text is always base64 of an encoded image, never a path, because clients of a server must not read its files.
Callers in Python may also pass arrays and ``pathlib`` paths, which a request cannot hold.

Every registered version has a copy of this file, so it imports only the public API of ``mipnet``.
"""

from __future__ import annotations

import base64
import os
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

import mipnet

DETECTOR_VARIABLE = "MIPNET_DETECTOR"
"""Environment variable: the ONNX file of a detector, which finds the people of rows without boxes."""
MAX_BOXES = 500
"""Of a request, in all of its rows: a server must answer before its clients give up."""
BOXES_TO_FIND = 25
"""Boxes for which a row counts in which people have to be found."""


class PoseModel(PythonModel):  # type: ignore[misc, unused-ignore]  # MLflow is skipped by mypy
    """Rows with ``image`` and optionally ``boxes`` ([[x, y, w, h], ...]) and ``min_score`` (by default the
    operating point's; 0 answers with all poses).

    Without boxes they are those that the detector of ``MIPNET_DETECTOR`` finds, or else the whole image.

    ``image`` is base64 of an encoded picture; in Python also its (H, W, 3) uint8 RGB pixels, or a
    ``pathlib.Path`` of its file.
    """

    def load_context(self, context: Any) -> None:
        detector = os.environ.get(DETECTOR_VARIABLE, "")
        self.predictor = mipnet.load_predictor(context.artifacts["network"], detector=detector)

    # No annotations: MLflow would derive a signature from them, and the registered one is more precise.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """For each row the poses of its image, by falling score, as COCO results with instance and box."""
        rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else model_input
        alone = BOXES_TO_FIND if self.predictor.detector else 1
        count = sum(len(boxes) if hasattr(boxes := row.get("boxes"), "__len__") else alone for row in rows)
        if count > MAX_BOXES:
            what = f"{count} boxes in a request are more than {MAX_BOXES}; divide it"
            raise MlflowException(what, INVALID_PARAMETER_VALUE)
        # One row at a time, because the images of a large batch may not fit into memory.
        return [self._poses(row, number) for number, row in enumerate(rows)]

    def _poses(self, row: dict[str, Any], number: int) -> list[dict[str, Any]]:
        """The poses of one row.

        Raises:
            MlflowException: the row is not usable; the server responds 400 with its message.
        """
        # A table's cell of a row without boxes or score is nan.
        image, boxes, min_score = (
            None if isinstance(value := row.get(name), float) and np.isnan(value) else value
            for name in ("image", "boxes", "min_score")
        )
        try:
            if image is None or isinstance(image, str | bytes):
                image = _decode_base64(image)
            return self.predictor(image, boxes, min_score=min_score).to_coco()
        except ValueError as error:
            raise MlflowException(f"row {number}: {error}", INVALID_PARAMETER_VALUE) from None


def _decode_base64(text: str | bytes | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except ValueError:
        raise ValueError("'image' is not the base64 of a picture") from None


set_model(PoseModel())
