"""A data set in COCO's format as YOLO-pose, for tests of the way back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mipnet.skeletons import COCO17


def write_yolo(
    root: Path, annotations: Path, pictures: Path, splits: Mapping[str, range], **more: Any
) -> Path:
    """Write people of COCO's 17 joints as txt files beside links to their pictures; returns the data.yaml.

    Args:
        root: folder of the data set.
        annotations: COCO's JSON.
        pictures: its folder of pictures.
        splits: name -> which of the images, in the order of the JSON, it has.
        more: of the data.yaml.
    """
    content = json.loads(annotations.read_text())
    for split, chosen in splits.items():
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for image in content["images"][chosen.start : chosen.stop]:
            name, w, h = image["file_name"], image["width"], image["height"]
            (root / "images" / split / name).symlink_to(pictures / name)
            lines = []
            for person in content["annotations"]:
                if person["image_id"] == image["id"] and not person["iscrowd"]:
                    x, y, width, height = person["bbox"]
                    values = [(x + width / 2) / w, (y + height / 2) / h, width / w, height / h]
                    keypoints = person["keypoints"]
                    for i in range(0, len(keypoints), 3):
                        values += [keypoints[i] / w, keypoints[i + 1] / h, keypoints[i + 2]]
                    lines.append(" ".join(["0", *(f"{value:.6f}" for value in values)]))
            (root / "labels" / split / name).with_suffix(".txt").write_text("\r\n".join(lines))
    file = root / "data.yaml"
    known = {"path": str(root), **{split: f"images/{split}" for split in splits}, "names": {0: "person"}}
    mirror = list(COCO17.flip_permutation)
    file.write_text(yaml.safe_dump({**known, "kpt_shape": [17, 3], "flip_idx": mirror, **more}))
    return file
