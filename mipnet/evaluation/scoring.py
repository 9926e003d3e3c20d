"""Metrics of predicted poses: every split with every box source, merged and each λ alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mipnet.config import Config
from mipnet.data.coco import CocoFile
from mipnet.evaluation.merging import Instances
from mipnet.evaluation.predicted_poses import Poses, PredictionsBySplit, merged_results
from mipnet.evaluation.protocols import evaluate_poses
from mipnet.evaluation.result_rows import Entry


def score_splits(poses: PredictionsBySplit, config: Config, files: Mapping[str, CocoFile]) -> list[Entry]:
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
