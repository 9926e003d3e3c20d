"""Each validation leaves a picture, and a word of where it is."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mipnet.config import preset
from mipnet.config.schema import DataConfig
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.dataset_formats import open_split
from mipnet.evaluation.result_rows import ResultRow
from mipnet.experiment.metric_forwarder import MetricForwarder
from mipnet.experiment.progress import Progress
from mipnet.run_folder import open_run
from mipnet.storage import Folder
from mipnet.tracking.journal import Journal, JournalReader
from mipnet.training.validation_pictures import draw_validation


def rows_of(file: CocoKeypointFile) -> list[ResultRow]:
    """The annotated people as merged poses and as those of λ = 0."""
    people = file.people()
    poses = []
    for index, keypoints in enumerate(people.keypoints):
        image = int(np.searchsorted(people.image_offsets, index, "right")) - 1
        box = people.boxes[index].tolist()
        pose = {"keypoints": keypoints.ravel().tolist(), "score": 1.0, "instance": 0, "box": box}
        poses.append({"image_id": int(people.images.ids[image]), **pose})
    return [ResultRow("train", "gt", mode, {}, poses) for mode in ("merged", "lambda0")]


def test_a_picture_is_left_sent_and_said(small_coco: Folder, tmp_path: Path, capsys) -> None:
    file = open_split(DataConfig(), small_coco, "train")
    run = open_run(Folder.of(tmp_path), preset("debug"))
    drawn = draw_validation(20, rows_of(file), file)
    assert drawn is not None
    drawn.put(run.folder, Journal(run.folder, "validation"))
    (entry,) = JournalReader(run.folder).read()
    assert (entry.record["do"], entry.record["name"]) == ("file", "pictures/validation-00000020.jpg")
    with Progress("training", "step", True, 0, 40) as progress:
        MetricForwarder(run, None, progress, 40).forward(entry.record)
    assert f"poses of step 20: {run.folder.uri}/pictures/validation-00000020.jpg\n" in capsys.readouterr().out
    picture = cv2.imread(str(run.folder.local_path / entry.record["name"]))
    assert picture.shape[1] > 4 * 300  # boxes, λ = 0, merged, ground truth
    assert picture.std() > 20


def test_pictures_that_cannot_be_read_end_nothing(small_coco: Folder) -> None:
    file = open_split(DataConfig(images="annotations"), small_coco, "train")
    assert draw_validation(20, rows_of(file), file) is None
