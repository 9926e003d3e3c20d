"""Pictures of what a network finds on the validation split, made by each validation while it trains."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mipnet.data.coco import CocoKeypointFile
from mipnet.errors import UserError
from mipnet.evaluation.result_rows import ResultRow
from mipnet.storage import Folder
from mipnet.tracking.journal import Journal
from mipnet.visualization.example_grids import example_grid
from mipnet.visualization.overlays import encode_jpeg

PICTURES = 4
"""Rows of the contact sheet: drawing them takes less than a second, which training may have to wait for."""

logger = logging.getLogger(__name__)


def save_validation_pictures(
    step: int, rows: Sequence[ResultRow], file: CocoKeypointFile, run_folder: Folder, journal: Journal
) -> None:
    """Draw the poses of the most crowded images, the same in all validations, into the run's folder.

    The journal sends the picture to MLflow, and says where it is.

    Args:
        step: of the checkpoint.
        rows: of the validation split in one box source, see ``score_splits``.
        file: annotations of the split.
        run_folder, journal: of the run.
    """
    try:
        grid = example_grid(file, rows, PICTURES, "crowded")
        name = f"pictures/validation-{step:08d}.jpg"
        run_folder.write(name, encode_jpeg(grid), durable=False)
    except UserError:  # no image can be read, which the validation says, or the storage is full
        logger.warning("no pictures of step %d", step, exc_info=True)
        return
    journal.add("file", name=name, step=step)
