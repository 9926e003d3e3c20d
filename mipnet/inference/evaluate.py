"""Tables of a model: every split with every box source, merged and each λ alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mipnet.config import Config
from mipnet.config.schema import ResourcesConfig
from mipnet.data.layouts import boxes_of
from mipnet.data.records import Boxes, CocoFile
from mipnet.evaluation.merging import Instances
from mipnet.evaluation.protocols import evaluate_poses
from mipnet.inference.entries import Entry
from mipnet.inference.pipeline import predict_poses
from mipnet.inference.poses import Poses, merged_results
from mipnet.storage import Folder

Found = dict[tuple[str, str], Poses]
"""The poses of each split in the boxes of each source, nothing merged yet."""


def predict_splits(
    model: Folder,
    config: Config,
    data: Folder,
    files: Mapping[str, CocoFile],
    sources: Sequence[str],
    resources: ResourcesConfig,
    progress: Callable[[int, int], None] = lambda done, of: None,
    unreadable: Callable[[list[str]], object] = lambda names: None,
) -> Found:
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


def score_splits(poses: Found, config: Config, files: Mapping[str, CocoFile]) -> list[Entry]:
    """Merge the poses, all instances and each alone, and score what is left."""
    views: dict[str, Instances] = {"merged": "merged"}
    if config.model.instances > 1:
        views |= {f"lambda{i}": i for i in range(config.model.instances)}
    return [
        Entry(split, source, view, *score(part, config, files[split], instances))
        for (split, source), part in poses.items()
        for view, instances in views.items()
    ]


def score(
    poses: Poses, config: Config, file: CocoFile, instances: Instances
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics and COCO results of the poses that survive merging."""
    results = merged_results(poses, config, instances, file.category_id)
    sigmas = config.data.joints.sigmas
    return evaluate_poses(config.data.protocol, file.annotations, results, sigmas), results
