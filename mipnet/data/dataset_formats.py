"""Where the files of the known data sets lie, as downloaded, and how to open a split of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mipnet.config.schema import Config, DataConfig
from mipnet.data.coco import Boxes, CocoFile
from mipnet.errors import DataError
from mipnet.storage import Folder, parent_of


@dataclass(frozen=True)
class Layout:
    """Where a split's annotation file and image folder may lie in the root; the first that exists counts.

    ``{split}`` stands for the split's name.
    """

    annotations: tuple[str, ...]
    images: tuple[str, ...]


LAYOUTS = {
    "coco": Layout(
        ("annotations/person_keypoints_{split}.json",),
        ("{split}", "images/{split}", "images"),
    ),
    "crowdpose": Layout(
        (
            "json/crowdpose_{split}.json",
            "annotations/crowdpose_{split}.json",
            "crowdpose_{split}.json",
        ),
        ("images",),
    ),
    # The last is OCHuman's own file of all images: the split 'ochuman' of ROOT/ochuman.json.
    "ochuman": Layout(
        (
            "ochuman_coco_format_{split}_range_0.00_1.00.json",
            "annotations/ochuman_coco_format_{split}_range_0.00_1.00.json",
            "{split}.json",
        ),
        ("images",),
    ),
}


def open_split(data: DataConfig, root: Folder, split: str) -> CocoFile:
    """The annotations of a split, checked.

    Args:
        data: the layout, or other places, and the skeleton.
        root: the data set's folder: ``data.root``, or where the benchmark was rendered.
        split: its name.

    Raises:
        DataError: a file or folder is in none of the places; names them all. As ``CocoFile``.
    """
    layout = LAYOUTS[data.layout]
    annotations = (data.annotations,) if data.annotations else layout.annotations
    images = (data.images,) if data.images else layout.images
    return CocoFile(
        root,
        _find(root, annotations, split, "annotations"),
        _find(root, images, split, "images"),
        data.joints,
    )


def _find(root: Folder, patterns: Sequence[str], split: str, kind: str) -> str:
    names = [pattern.replace("{split}", split) for pattern in patterns]
    for name in names:
        if root.exists(name):
            return name
    tried = ", ".join(root.path(name) for name in names)
    raise DataError(
        f"there are no {kind} of split {split!r}: tried {tried}",
        f"check --data (data.root) and the split's name, or say where they are with --data.{kind}",
    )


def boxes_of(file: CocoFile, data: Folder, split: str, source: str, config: Config) -> Boxes:
    """The boxes of a source: gt, NAME (a file of the data set) or NAME=FILE; {split} is the split's name.

    Raises:
        DataError: there are none, or they cannot be used.
    """
    if source == "gt":
        return file.ground_truth_boxes()
    name, _, path = source.replace("{split}", split).partition("=")
    folder, file_name = parent_of(Folder.of(path).uri) if path else (data, f"boxes/{name}_{split}.json")
    return file.detected_boxes(folder, file_name, config.data.box_score_threshold, config.data.box_nms)
