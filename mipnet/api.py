"""The functions of ``import mipnet``: load a trained model, run a training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mipnet.config import Config, from_dict, preset, to_dict
from mipnet.errors import UserError
from mipnet.storage import readable_storage

if TYPE_CHECKING:
    from mipnet.inference.image_predictor import ImagePredictor


def load_predictor(
    model: str | PathLike[str],
    device: str = "auto",
    storage: str | PathLike[str] = "",
    detector: str | PathLike[str] = "",
) -> ImagePredictor:
    """A trained network, ready to be called with a picture and boxes.

    Ray is never imported, and MLflow only for an address that begins with ``models:`` or ``runs:``.

    Args:
        model: models:/NAME@ALIAS, models:/NAME/VERSION, the name of a run, or a folder with model.json.
        device: "cpu", "cuda", "cuda:1", …; "auto" is a GPU if PyTorch has one.
        storage: where runs and, unless MLFLOW_TRACKING_URI names a server, registered models lie; by default
            a folder in the user's data directory, as for ``mipnet train``.
        detector: ONNX file of RF-DETR, RTMDet, YOLOX or Ultralytics' YOLO, which finds the people in pictures
            that come without boxes; needs ONNX Runtime (the extra ``detector``).

    Raises:
        UserError: there is no such model or detector, or it cannot be used.
    """
    import torch

    from mipnet.inference.detector import Detector, DetectorFile
    from mipnet.inference.image_predictor import ImagePredictor
    from mipnet.registry.resolve import resolve_model

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = resolve_model(str(model), readable_storage(str(storage)))
    on_gpu = torch.device(device).type == "cuda"
    finder = Detector(DetectorFile.read(detector), on_gpu) if str(detector) else None
    with TemporaryDirectory() as scratch:
        return ImagePredictor.load(folder.download(Path(scratch)), device, finder)


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    Attributes:
        name: of the run, for ``load_predictor``.
        folder: of configuration, weights, results and report.
        metrics: ``split/source/instance_mode/metric`` -> value, 0 to 1.
        version: of the registered model; "" if the configuration registers none.
    """

    name: str
    folder: str
    metrics: dict[str, float]
    version: str


def train(
    config: Config | str = "tiny",
    name: str = "",
    new: bool = False,
    storage: str | PathLike[str] = "",
    verbose: bool = False,
) -> TrainedRun:
    """What ``mipnet train`` does: data, training, evaluation, registration; the same call continues.

    Args:
        config: of the run, or the name of a preset.
        name: of the run; by default preset and digest of the settings.
        new: start another run instead of continuing.
        storage: a folder or URI for data sets, runs and checkpoints.
        verbose: show Ray's own messages.

    Raises:
        UserError: something is wrong with the settings, the data or the cluster; or the run is finished,
            but MLflow lacks a part of it.
    """
    from mipnet.experiment.training_run import complete_run
    from mipnet.run_folder import RESULTS_FOLDER

    given = preset(config) if isinstance(config, str) else config
    config = from_dict(to_dict(given))  # checked, and 70 made 70.0, so that the run is that of the same flags
    run = complete_run(config, readable_storage(str(storage)), name, new, verbose=verbose)
    if run.owed:
        what = f"run {run.name} is finished in {run.folder.uri}, but MLflow lacks a part of it"
        raise UserError(what, "call train again")
    metrics = json.loads(run.folder.read(f"{RESULTS_FOLDER}/metrics.json"))
    return TrainedRun(run.name, run.folder.uri, metrics, run.state.get("version", ""))
