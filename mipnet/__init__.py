"""MIPNet on Ray: multi-instance top-down pose estimation, from generated scenes to a served model.

``__all__`` is the public interface. Its names are imported at first use, so that ``import mipnet`` and the
command line's ``--help`` are fast. Our loggers print nothing unless the user configures ``logging``.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mipnet.api import TrainedRun, load_predictor, train
    from mipnet.config import Config, preset
    from mipnet.errors import UserError
    from mipnet.evaluation.coco import evaluate_keypoints
    from mipnet.evaluation.decoding import decode_heatmaps
    from mipnet.evaluation.oks import oks_nms
    from mipnet.inference.image_predictor import ImagePoses, ImagePredictor
    from mipnet.models.backbone import Backbone
    from mipnet.models.build import build_model
    from mipnet.models.network import MIPNet

__version__ = "0.1.0"

__all__ = [
    "Backbone",
    "Config",
    "ImagePoses",
    "ImagePredictor",
    "MIPNet",
    "TrainedRun",
    "UserError",
    "build_model",
    "decode_heatmaps",
    "evaluate_keypoints",
    "load_predictor",
    "oks_nms",
    "preset",
    "train",
]

_MODULE_OF = {
    "Backbone": "mipnet.models.backbone",
    "Config": "mipnet.config",
    "ImagePoses": "mipnet.inference.image_predictor",
    "ImagePredictor": "mipnet.inference.image_predictor",
    "MIPNet": "mipnet.models.network",
    "TrainedRun": "mipnet.api",
    "UserError": "mipnet.errors",
    "build_model": "mipnet.models.build",
    "decode_heatmaps": "mipnet.evaluation.decoding",
    "evaluate_keypoints": "mipnet.evaluation.coco",
    "load_predictor": "mipnet.api",
    "oks_nms": "mipnet.evaluation.oks",
    "preset": "mipnet.config",
    "train": "mipnet.api",
}

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
