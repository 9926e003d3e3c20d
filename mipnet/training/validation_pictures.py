"""Pictures of what a network finds on the validation split, made by each validation while it trains."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

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


Do = Callable[[Callable[[], None]], None]
"""Does some work, now or later."""


def do_now(work: Callable[[], None]) -> None:
    work()


def save_validation_pictures(
    step: int,
    rows: Sequence[ResultRow],
    file: CocoKeypointFile,
    run_folder: Folder,
    journal: Journal,
    put: Do = do_now,
) -> None:
    """Draw the poses of the most crowded images, the same in all validations, into the run's folder.

    The journal sends the picture to MLflow, and says where it is.

    Args:
        step: of the checkpoint.
        rows: of the validation split in one box source, see ``score_splits``.
        file: annotations of the split.
        run_folder, journal: of the run.
        put: stores the picture: an object store takes its time.
    """
    try:
        content = encode_jpeg(example_grid(file, rows, PICTURES, "crowded"))
    except UserError:  # no image can be read, which the validation says
        logger.warning("no pictures of step %d", step, exc_info=True)
        return
    put(partial(_put, step, content, run_folder, journal))


def _put(step: int, content: bytes, run_folder: Folder, journal: Journal) -> None:
    name = f"pictures/validation-{step:08d}.jpg"
    try:
        run_folder.write(name, content, durable=False)
    except UserError:  # the storage is full
        logger.warning("no pictures of step %d", step, exc_info=True)
        return
    journal.add("file", name=name, step=step)
