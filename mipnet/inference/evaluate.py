"""Tables of a model: every split with every box source, merged and each λ alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mipnet.config import Config
from mipnet.config.schema import EvaluationConfig, ResourcesConfig
from mipnet.data.layouts import boxes_of
from mipnet.data.records import Boxes, CocoFile
from mipnet.evaluation.protocols import evaluate_poses
from mipnet.inference.pipeline import predict_poses
from mipnet.inference.poses import merged_results
from mipnet.storage import Folder


@dataclass(frozen=True)
class Entry:
    """One line of a table.

    Attributes:
        split, source: which people, in whose boxes.
        view: "merged", or "lambda0", "lambda1", … for one instance alone.
        metrics: by the names of the protocol, 0 to 1; nan where the split has nobody to measure.
        results: the poses in COCO's results format, with ``instance`` and ``box`` added.
    """

    split: str
    source: str
    view: str
    metrics: dict[str, float]
    results: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return f"{self.split}/{self.source}/{self.view}"


def evaluate_splits(
    model: Folder,
    config: Config,
    evaluation: EvaluationConfig,
    data: Folder,
    files: Mapping[str, CocoFile],
    sources: Sequence[str],
    resources: ResourcesConfig,
    progress: Callable[[int, int], None] = lambda done, of: None,
    unreadable: Callable[[list[str]], object] = lambda names: None,
) -> list[Entry]:
    """All lines of the tables, from one pass of prediction.

    Args:
        model: the network's folder.
        config: what it was trained with.
        evaluation: how its heatmaps are read and its poses merged.
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
    poses = predict_poses(Boxes.join(parts), model, config, evaluation, resources, progress)
    if poses.unreadable:
        unreadable(poses.unreadable)
    entries = []
    for group, (split, source) in enumerate(pairs):
        part = poses.of_group(group)
        views: dict[str, Any] = {"merged": "merged"}
        if config.model.instances > 1:
            views |= {f"lambda{i}": i for i in range(config.model.instances)}
        for view, instances in views.items():
            results = merged_results(part, config, evaluation, instances, files[split].category_id)
            metrics = evaluate_poses(
                config.data.protocol, files[split].annotations, results, config.data.joints.sigmas
            )
            entries.append(Entry(split, source.partition("=")[0], view, metrics, results))
    return entries


def flat_metrics(entries: Sequence[Entry]) -> dict[str, float]:
    """``split/source/view/metric`` -> value, without those that nobody was there to measure."""
    return {
        f"{entry.name}/{metric}": value
        for entry in entries
        for metric, value in entry.metrics.items()
        if not np.isnan(value)
    }
