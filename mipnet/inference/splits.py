"""Predict all splits in the boxes of all sources, in one pass over the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mipnet.config import Config
from mipnet.config.schema import ResourcesConfig
from mipnet.data.coco import Boxes, CocoKeypointFile
from mipnet.data.dataset_formats import load_boxes
from mipnet.evaluation.predicted_poses import PredictionsBySplit
from mipnet.inference.pipeline import predict_poses
from mipnet.storage import Folder


def predict_splits(
    model: Folder,
    config: Config,
    data: Folder,
    files: Mapping[str, CocoKeypointFile],
    *,
    sources: Sequence[str],
    resources: ResourcesConfig,
    progress: Callable[[int, int], None] = lambda done, of: None,
    on_corrupt_images: Callable[[list[str]], object] = lambda names: None,
) -> PredictionsBySplit:
    """Predict all boxes of all splits in one pass.

    Args:
        model: folder of the network.
        config: the training configuration, and how to decode heatmaps.
        data: folder of the data set.
        files: split -> its annotations.
        sources: box sources as in ``DataConfig.boxes``.
        resources: for the prediction.
        progress: called with the number of boxes that are done and of all boxes.
        on_corrupt_images: called with the URIs of the images that were left out, if any.

    Raises:
        DataError: annotations, boxes or images that cannot be used.
    """
    pairs = [(split, source) for split in files for source in sources]
    boxes = [load_boxes(files[split], data, split, source, config) for split, source in pairs]
    poses = predict_poses(Boxes.concatenate(boxes), model, config, resources, progress)
    if poses.corrupt_images:
        on_corrupt_images(poses.corrupt_images)
    names = [(split, source.partition("=")[0]) for split, source in pairs]
    return {name: poses.of_source(index) for index, name in enumerate(names)}
