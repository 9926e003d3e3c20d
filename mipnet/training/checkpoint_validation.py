"""The metrics of a checkpoint on the validation split, and what is recorded if there are none."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from mipnet.config import Config
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.dataset_formats import open_split
from mipnet.errors import as_user_error, root_cause
from mipnet.evaluation.occlusion import SELECTION_METRIC, occlusion_ap
from mipnet.evaluation.predicted_poses import PredictionsBySplit, score_splits
from mipnet.evaluation.result_rows import flat_metrics
from mipnet.inference.crop_predictor import DivergedError
from mipnet.inference.pipeline import predict_splits
from mipnet.run_folder import TRAINING_FOLDER
from mipnet.storage import Folder
from mipnet.tracking.journal import Journal
from mipnet.training.checkpoint import step_from_path
from mipnet.training.gauges import TrainingGauges
from mipnet.training.validation_pictures import ValidationPicture, draw_validation

logger = logging.getLogger(__name__)

Metrics = dict[str, Any]
Validate = Callable[[str], Metrics]
"""Takes the name of a checkpoint."""


def selection_source(config: Config) -> str:
    """The box source in which the best checkpoint is chosen; for generated data a detector-like one."""
    return config.data.boxes[-1]


def record_validation(
    step: int,
    config: Config,
    run_folder: Folder,
    journal: Journal,
    predict: Callable[[], tuple[PredictionsBySplit, Mapping[str, CocoKeypointFile]]],
    on_picture: Callable[[ValidationPicture], None],
) -> Metrics:
    """Score the poses of a checkpoint on the validation split, record the metrics, and draw the poses.

    The best weights are those with the highest occlusion AP.

    Args:
        step: of the checkpoint.
        config: of the run.
        run_folder: of the run.
        journal: of the run; is told why there are no metrics, too. It is not flushed.
        predict: the poses and the annotations of the split, as for ``score_splits``.
        on_picture: takes the picture; to put it into an object store takes a while.

    Returns:
        the metrics; only a nan if the network has diverged, which no other try could mend.

    Raises:
        Exception: of ``predict`` or the scores.
    """
    logger.info("validating step %d", step)
    try:
        poses, files = predict()
        rows = score_splits(poses, config, files)
        found = flat_metrics(rows)
        metrics = {SELECTION_METRIC: occlusion_ap(config.data, found).value, **found}
        journal.add_row("validation", {"step": step, **metrics})
        TrainingGauges(run_folder).set("validated_step", step)
        if picture := draw_validation(step, rows, files[config.data.val]):
            on_picture(picture)
        return metrics
    except Exception as error:
        logger.warning("validation of step %d failed", step, exc_info=True)
        known = as_user_error(error)
        journal.add("unvalidated", step=step, cause=str(known or root_cause(error)))
        if not isinstance(known, DivergedError):
            raise
        return {SELECTION_METRIC: math.nan}


def make_validate_fn(config: Config, run_folder: Folder, data: Folder) -> Validate:
    """A function that validates a checkpoint in the storage, on a GPU if ``resources.gpu`` is true.

    Ray Train runs it beside the training, where a GPU is left for it, and the driver after the training.
    """

    def validate(name: str) -> Metrics:
        journal = Journal(run_folder, "validation")

        def predict() -> tuple[PredictionsBySplit, Mapping[str, CocoKeypointFile]]:
            files = {config.data.val: open_split(config.data, data, config.data.val)}
            poses = predict_splits(
                run_folder.join(f"{TRAINING_FOLDER}/{name}"),
                config,
                data,
                files,
                sources=[selection_source(config)],
                resources=config.resources,
                on_corrupt_images=lambda names: journal.add("unreadable", names=names),
            )
            return poses, files

        try:
            return record_validation(
                step_from_path(name),
                config,
                run_folder,
                journal,
                predict,
                lambda picture: picture.put(run_folder, journal),
            )
        finally:
            journal.flush()

    return validate
