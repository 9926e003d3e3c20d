"""Pictures of what a network finds on the validation split, made by each validation while it trains."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class ValidationPicture:
    """What a network finds on the most crowded images, the same in all validations.

    Attributes:
        step: of the checkpoint.
        content: JPEG.
    """

    step: int
    content: bytes

    def put(self, run_folder: Folder, journal: Journal) -> None:
        """Store it in the run's folder; the journal sends it to MLflow, and says where it is."""
        name = f"pictures/validation-{self.step:08d}.jpg"
        try:
            run_folder.write(name, self.content, durable=False)
        except UserError:  # the storage is full
            logger.warning("no picture of step %d", self.step, exc_info=True)
            return
        journal.add("file", name=name, step=self.step)


def draw_validation(step: int, rows: Sequence[ResultRow], file: CocoKeypointFile) -> ValidationPicture | None:
    """Draw the poses of a checkpoint; None if no image can be read, which the validation says.

    Args:
        step: of the checkpoint.
        rows: of the validation split in one box source, see ``score_splits``.
        file: annotations of the split.
    """
    try:
        return ValidationPicture(step, encode_jpeg(example_grid(file, rows, PICTURES, "crowded")))
    except UserError:
        logger.warning("no picture of step %d", step, exc_info=True)
        return None
