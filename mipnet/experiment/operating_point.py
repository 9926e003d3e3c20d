"""A trained model's operating point, chosen on the validation split and kept in its model.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

from mipnet.config import Config
from mipnet.config.schema import DataConfig
from mipnet.console import say
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.dataset_formats import box_sources_by_split, open_split
from mipnet.evaluation.best_threshold import choose_operating_point
from mipnet.evaluation.matching import match_poses
from mipnet.evaluation.operating_point import OPERATING_POINT_KEY, OperatingPoint
from mipnet.evaluation.predicted_poses import PredictionsBySplit, merged_results
from mipnet.experiment.model_evaluation import predict_all
from mipnet.models.weights import DESCRIPTION_FILE
from mipnet.storage import Folder


def operating_source(data: DataConfig) -> str:
    """The box source in which the operating point is chosen: the last detector's in which the validation
    split is predicted; the last source, if all of these are ground truth."""
    sources = box_sources_by_split(data, training=True)[data.val]
    return ([source for source in sources if source != "gt"] or list(sources))[-1]


def choose_on_validation(
    model: Folder,
    config: Config,
    data: Folder,
    files: Mapping[str, CocoKeypointFile],
    poses: PredictionsBySplit,
    *,
    report_corrupt: Callable[[list[str]], object],
    plain: bool,
) -> OperatingPoint | None:
    """Choose the operating point of a model by its poses on the validation split.

    Args:
        model: folder of the model.
        config: of the model, with ``resources.gpu`` resolved.
        data: the data set's folder.
        files: split -> annotations; the validation split's are opened if they are not among them.
        poses: predictions; those of the validation split are made if they are not among them.
        report_corrupt, plain: as for ``predict_all``.

    Returns:
        None if no pose finds a person there.
    """
    split, source = config.data.val, operating_source(config.data)
    name = source.partition("=")[0]
    file = files[split] if split in files else open_split(config.data, data, split)
    if (split, name) not in poses:
        say(f"choosing the operating point on {split} in {name} boxes")
        alone = replace(config, data=replace(config.data, boxes=(source,)))
        poses = predict_all(model, alone, data, {split: file}, report_corrupt=report_corrupt, plain=plain)
    results = merged_results(poses[split, name], config, category_id=file.category_id)
    matches = match_poses(config.data, file.annotations, results)
    return choose_operating_point(matches, config.data.joints.sigmas, name)


def save_operating_point(model: Folder, point: OperatingPoint | None) -> None:
    """Write an operating point, or that there is none, into a model's model.json."""
    description = json.loads(model.read(DESCRIPTION_FILE))
    description["extra"].pop(OPERATING_POINT_KEY, None)
    if point:
        description["extra"][OPERATING_POINT_KEY] = point.to_json()
    model.write(DESCRIPTION_FILE, json.dumps(description, indent=2) + "\n")
