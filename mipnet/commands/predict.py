"""``mipnet predict``: poses of the people in images, as COCO results and overlays."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mipnet.commands.common import STORAGE_HELP, storage_at
from mipnet.config import from_dict, preset, to_yaml
from mipnet.config.flags import option, parse, say
from mipnet.errors import DataError, UserError

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet predict``."""

    images: tuple[str, ...] = option((), "pictures, or folders of pictures", positional=True)
    model: str = option(
        "models:/mipnet@candidate", "models:/NAME@ALIAS, the name of a run, or a model folder"
    )
    boxes: str = option("", "COCO detections JSON [{image_id or file_name, bbox, score}]; else whole images")
    out: str = option("predictions", "folder for results.json and overlays")
    overlays: bool = option(True, "draw the poses")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, "show Ray's own messages")


def main(command: str, argv: Sequence[str]) -> int:
    """Predict, write results.json and draw overlays."""
    options, settings = parse(
        command, "Find the poses of people.", Options, ["evaluation", "resources"], preset("tiny"), argv
    )
    files = picture_files(options.images)
    listed = read_boxes(options.boxes, files) if options.boxes else whole_images(files)
    if not options.boxes:
        say("no --boxes: each whole image is taken as one box")
    storage = storage_at(options.storage)

    from mipnet.raysession import connect, quieten

    quieten(options.verbose)
    from mipnet.inference.pipeline import predict_poses
    from mipnet.inference.poses import merged_results
    from mipnet.storage import Folder
    from mipnet.tracking.registry import model_config, resolve_model

    model = resolve_model(options.model, storage)
    config = from_dict(settings, model_config(model))
    with connect(config.resources, options.verbose):
        poses = predict_poses(listed, model, config, config.evaluation, config.resources)
    for name in poses.unreadable:
        say(f"cannot be read and was left out: {name}")
    results = merged_results(poses.of_group(0), config, config.evaluation)
    names = dict(zip(listed.images.ids.tolist(), map(str, listed.images.uris), strict=True))
    for result in results:
        result["file_name"] = names[result["image_id"]]
    out = Folder.of(options.out)
    out.write("config.yaml", to_yaml(config))
    out.write("results.json", json.dumps(results, indent=1))
    say(f"{len(results)} poses of {len(names)} images: {out.path('results.json')}")
    if options.overlays:
        draw_overlays(out, names, results, config.data.joints)
        say(f"overlays: {out.path('overlays')}")
    return 0


def picture_files(places: Sequence[str]) -> list[Path]:
    """The picture files that paths and folders name, sorted.

    Raises:
        UserError: nothing is named, something does not exist, or a folder has no picture.
    """
    if not places:
        raise UserError("no images", "e.g. mipnet predict photo.jpg, or a folder of pictures")
    files: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            found = sorted(p for p in place.rglob("*") if p.suffix.lower() in PICTURES)
            if not found:
                raise UserError(f"{place} holds no pictures", f"they end in {', '.join(PICTURES)}")
            files += found
        elif place.is_file():
            files.append(place)
        else:
            raise UserError(f"{place} does not exist", "give pictures, or folders of pictures")
    return sorted({path.resolve() for path in files})


def image_ids(files: Sequence[Path]) -> list[int]:
    """COCO's id where every name is a number (000000000139.jpg -> 139), else 1, 2, 3, …"""
    if all(path.stem.isdecimal() for path in files) and len({int(p.stem) for p in files}) == len(files):
        return [int(path.stem) for path in files]
    return list(range(1, len(files) + 1))


def whole_images(files: Sequence[Path]) -> Any:
    """One box per image: all of it."""
    import cv2
    import numpy as np

    from mipnet.data.records import Boxes, Images

    images = Images(np.array([str(p) for p in files]), np.array(image_ids(files), np.int64))
    boxes = np.ones((len(files), 4))
    boxes[:, :2] = 0
    for i, path in enumerate(files):
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if pixels is not None:
            boxes[i, 2:] = pixels.shape[1], pixels.shape[0]
    n = len(files)
    return Boxes(images, np.arange(n), boxes, np.ones(n), np.zeros(n, np.int64))


def read_boxes(path: str, files: Sequence[Path]) -> Any:
    """Detections for the images, by image_id or file_name.

    Raises:
        DataError: the file is broken, or none of its boxes belongs to an image.
    """
    import numpy as np

    from mipnet.data.records import Boxes, Images, read_json
    from mipnet.storage import Folder

    place = Path(path).resolve()
    detections = read_json(Folder.of(place.parent), place.name)
    ids = image_ids(files)
    index: dict[Any, int] = {image_id: i for i, image_id in enumerate(ids)}
    index |= {file.name: i for i, file in enumerate(files)}
    rows = []
    try:
        for d in detections:
            i = index.get(d["file_name"] if "file_name" in d else d["image_id"])
            if i is not None:
                rows.append((i, *map(float, d["bbox"]), float(d.get("score", 1.0))))
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path} is not a list of detections", "give [{image_id, bbox, score}]") from None
    if not rows:
        raise DataError(f"{path} has no box for these {len(files)} images", "check image_id or file_name")
    table = np.array(sorted(rows))
    image = table[:, 0].astype(np.int64)
    images = Images(np.array([str(p) for p in files]), np.array(ids, np.int64))
    return Boxes(images, image, table[:, 1:5], table[:, 5], np.zeros_like(image))


def draw_overlays(out: Any, names: dict[int, str], results: list[dict[str, Any]], joints: Any) -> None:
    """One picture per image that could be read."""
    import cv2

    from mipnet.data.crops import decode_image
    from mipnet.inference.overlays import draw_poses

    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    for image_id, name in names.items():
        image = decode_image(Path(name).read_bytes())
        if image is None:
            continue
        drawn = draw_poses(image, by_image[image_id], joints)
        _, content = cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        out.write(f"overlays/{image_id}_{Path(name).stem}.jpg", content.tobytes())
