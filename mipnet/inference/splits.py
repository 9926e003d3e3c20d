"""The poses of a trained network in every split and box source, from one pass over the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mipnet.config import Config
from mipnet.config.schema import ResourcesConfig
from mipnet.data.coco import Boxes, CocoFile
from mipnet.data.dataset_formats import boxes_of
from mipnet.evaluation.predicted_poses import PredictionsBySplit
from mipnet.inference.pipeline import predict_poses
from mipnet.storage import Folder


def predict_splits(
    model: Folder,
    config: Config,
    data: Folder,
    files: Mapping[str, CocoFile],
    sources: Sequence[str],
    resources: ResourcesConfig,
    progress: Callable[[int, int], None] = lambda done, of: None,
    unreadable: Callable[[list[str]], object] = lambda names: None,
) -> PredictionsBySplit:
    """The poses in all boxes of all splits, from one pass.

    Args:
        model: the network's folder.
        config: what it was trained with, and how its heatmaps are read.
        data: folder of the data set.
        files: split -> its annotations.
        sources: box sources as in ``DataConfig.boxes``.
        resources: for the prediction.
        progress: told how many boxes of how many are done.
        unreadable: told which images were left out, if any.

    Raises:
        DataError: annotations, boxes or images that cannot be used.
    """
    pairs = [(split, source) for split in files for source in sources]
    parts = [boxes_of(files[split], data, split, source, config) for split, source in pairs]
    poses = predict_poses(Boxes.join(parts), model, config, resources, progress)
    if poses.unreadable:
        unreadable(poses.unreadable)
    names = [(split, source.partition("=")[0]) for split, source in pairs]
    return {name: poses.of_group(group) for group, name in enumerate(names)}
