"""The file layouts of the supported data sets, as downloaded, and how to open a split and its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mipnet.config.schema import Config, DataConfig
from mipnet.data.annotation_reading import Rules
from mipnet.data.coco import Boxes, CocoKeypointFile
from mipnet.data.detections import read_detections
from mipnet.errors import DataError
from mipnet.storage import Folder, split_uri


@dataclass(frozen=True)
class DatasetFormat:
    """Possible paths in the root of a split's annotation file and image folder; the first existing is taken.

    ``{split}`` stands for the split's name.
    """

    annotations: tuple[str, ...]
    images: tuple[str, ...]


DATASET_FORMATS = {
    "coco": DatasetFormat(
        ("annotations/person_keypoints_{split}.json",), ("{split}", "images/{split}", "images")
    ),
    "crowdpose": DatasetFormat(
        ("json/crowdpose_{split}.json", "annotations/crowdpose_{split}.json", "crowdpose_{split}.json"),
        ("images",),
    ),
    # The last is OCHuman's own file of all images: split 'ochuman' is ROOT/ochuman.json.
    "ochuman": DatasetFormat(
        (
            "ochuman_coco_format_{split}_range_0.00_1.00.json",
            "annotations/ochuman_coco_format_{split}_range_0.00_1.00.json",
            "{split}.json",
        ),
        ("images",),
    ),
}


def open_split(data: DataConfig, root: Folder, split: str) -> CocoKeypointFile:
    """Open and check the annotations of a split.

    Args:
        data: the data set's format, or explicit paths, and the skeleton.
        root: the data set's folder: ``data.root``, or the rendered benchmark.
        split: its name.

    Raises:
        DataError: the file or folder does not exist, with all paths tried; or as ``CocoKeypointFile``.
    """
    annotations, images = split_location(data, root, split)
    rules = Rules(data.category, data.keep_area, data.protocol == "crowdpose", data.exif)
    return CocoKeypointFile(root, annotations, images, data.joints, rules)


def split_location(data: DataConfig, root: Folder, split: str) -> tuple[str, str]:
    """The names in the data set's folder of a split's annotation file and image folder.

    Raises:
        DataError: one does not exist, with all paths tried.
    """
    known = DATASET_FORMATS[data.format]
    annotations = _find(root, split, data.annotations, known.annotations, "annotations")
    return annotations, _find(root, split, data.images, known.images, "images")


def _find(root: Folder, split: str, given: str, patterns: Sequence[str], kind: str) -> str:
    names = [pattern.replace("{split}", split) for pattern in ([given] if given else patterns)]
    for name in names:
        if root.exists(name):
            return name
    tried = ", ".join(root.path(name) for name in names)
    raise DataError(
        f"there are no {kind} of split {split!r}: tried {tried}",
        f"check --data (data.root) and the split's name, or say where they are with --data.{kind}",
    )


def box_sources_by_split(data: DataConfig, training: bool) -> dict[str, tuple[str, ...]]:
    """Each split that a command uses -> the sources of the boxes to predict poses in."""
    sources = dict.fromkeys(data.evaluate, data.boxes)
    return {data.train: (), data.val: data.boxes[-1:], **sources} if training else sources


def boxes_location(data: Folder, split: str, source: str) -> tuple[Folder, str]:
    """The folder and name of a box source's file, see ``load_boxes``; not of gt."""
    name, _, path = source.replace("{split}", split).partition("=")
    return split_uri(Folder.of(path).uri) if path else (data, f"boxes/{name}_{split}.json")


def load_boxes(file: CocoKeypointFile, data: Folder, split: str, source: str, config: Config) -> Boxes:
    """The boxes of a box source.

    Args:
        file: the split's annotations.
        data: the data set's folder.
        split: name of the split.
        source: gt, NAME (boxes/NAME_SPLIT.json of the data set) or NAME=FILE, in which {split} is replaced.
        config: has the score threshold and the NMS threshold.

    Raises:
        DataError: the boxes do not exist or cannot be used.
    """
    if source == "gt":
        return file.ground_truth_boxes()
    folder, file_name = boxes_location(data, split, source)
    wanted = config.data
    return read_detections(
        file,
        folder,
        file_name,
        wanted.box_score_threshold,
        max_iou=wanted.box_nms,
        max_bad_share=wanted.max_bad_share,
    )
