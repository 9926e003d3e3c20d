"""Metrics of predicted poses: every split with every box source, merged and each λ alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mipnet.config import Config
from mipnet.data.coco import CocoKeypointFile
from mipnet.evaluation.merging import InstanceMode
from mipnet.evaluation.predicted_poses import Predictions, PredictionsBySplit, merged_results
from mipnet.evaluation.protocols import evaluate_poses
from mipnet.evaluation.result_rows import ResultRow


def instance_modes(instances: int) -> dict[str, InstanceMode]:
    """Name -> instance mode of a network with N = ``instances``: merged and, if N > 1, each λ alone."""
    alone = range(instances if instances > 1 else 0)
    return {"merged": "merged", **{f"lambda{i}": i for i in alone}}


def score_splits(
    poses: PredictionsBySplit, config: Config, files: Mapping[str, CocoKeypointFile]
) -> list[ResultRow]:
    """A row of metrics for each split, box source and instance mode.

    Args:
        poses: (split, box source) -> predictions, as from ``predict_splits``.
        config: skeleton, protocol and merging parameters.
        files: split -> its annotations.
    """
    return [
        ResultRow(split, source, name, *score_predictions(predictions, config, files[split], mode))
        for (split, source), predictions in poses.items()
        for name, mode in instance_modes(config.model.instances).items()
    ]


def score_predictions(
    poses: Predictions, config: Config, file: CocoKeypointFile, instance_mode: InstanceMode
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Merge the poses; returns (metrics by name, the merged poses in COCO's results format)."""
    results = merged_results(poses, config, instance_mode, file.category_id)
    sigmas = config.data.joints.sigmas
    return evaluate_poses(config.data.protocol, file.annotations, results, sigmas), results
