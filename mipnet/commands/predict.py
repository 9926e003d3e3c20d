"""``mipnet predict``: poses of the people in images, as COCO results and overlays."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mipnet.commands.common import STORAGE_HELP, output_folder, storage_at, usable_model
from mipnet.commands.progress import Progress
from mipnet.commands.unreadable import Unreadable
from mipnet.config import from_dict, preset, to_yaml
from mipnet.config.flags import option, parse, say
from mipnet.errors import DataError, UserError

BOX_HELP = "give detections as [{image_id or file_name, bbox: [x, y, w, h], score}]"
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
    sections = ["evaluation", "resources", "data.max_bad_share"]
    options, settings = parse(command, "Find the poses of people.", Options, sections, preset("tiny"), argv)
    files = picture_files(options.images)
    listed = read_boxes(options.boxes, files) if options.boxes else None
    storage = storage_at(options.storage)
    out = output_folder(options.out)

    from mipnet.raysession import connect, probe_files, quieten

    quieten(options.verbose)
    from mipnet.inference.pipeline import predict_poses
    from mipnet.inference.poses import merged_results

    model, trained = usable_model(options.model, storage)
    config = from_dict(settings, trained)
    if listed is None:
        say("no --boxes: each whole image is taken as one box")
        listed = whole_images(files, config.data.max_bad_share)
    with connect(config.resources, options.verbose) as resources:
        probe_files([model.path("model.json"), str(files[0])])
        with Progress("predicting", "box", options.verbose) as progress:
            poses = predict_poses(listed, model, config, config.evaluation, resources, progress.update)
    Unreadable()(poses.unreadable)
    results = merged_results(poses.of_group(0), config, config.evaluation)
    names = dict(zip(listed.images.ids.tolist(), map(str, listed.images.uris), strict=True))
    for result in results:
        result["file_name"] = names[result["image_id"]]
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
            os.listdir(place)  # rglob passes over what may not be listed
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


def whole_images(files: Sequence[Path], max_bad_share: float) -> Any:
    """One box per image: all of it.

    Raises:
        DataError: more than ``max_bad_share`` of them cannot be read.
    """
    import numpy as np

    from mipnet.data.faults import check_readable
    from mipnet.data.records import Boxes, Images

    unreadable = []
    images = Images(np.array([str(p) for p in files]), np.array(image_ids(files), np.int64))
    boxes = np.ones((len(files), 4))
    boxes[:, :2] = 0
    for i, path in enumerate(files):
        pixels = readable(path)
        if pixels is None:
            unreadable.append(str(path))
        else:
            boxes[i, 2:] = pixels.shape[1], pixels.shape[0]
    check_readable(unreadable, len(files), max_bad_share)
    n = len(files)
    return Boxes(images, np.arange(n), boxes, np.ones(n), np.zeros(n, np.int64))


def readable(path: Path) -> Any:
    """(H, W, 3) uint8 RGB, None if it cannot be read."""
    from mipnet.data.crops import decode_image

    try:
        return decode_image(path.read_bytes())
    except OSError:
        return None


def read_boxes(path: str, files: Sequence[Path]) -> Any:
    """Detections for the images, by image_id or file_name.

    Raises:
        DataError: the file is broken, or none of its boxes belongs to an image.
    """
    import numpy as np

    from mipnet.data.records import Boxes, Images, read_json
    from mipnet.storage import Folder

    place = Path(path).resolve()
    detections = read_json(Folder.of(place.parent), place.name, "check --boxes")
    if not isinstance(detections, list):
        raise DataError(f"{path} is not a list", BOX_HELP)
    ids = image_ids(files)
    index: dict[Any, int] = {image_id: i for i, image_id in enumerate(ids)}
    index |= {file.name: i for i, file in enumerate(files)}
    rows = []
    for number, d in enumerate(detections):
        try:
            i = index.get(d["file_name"] if "file_name" in d else d["image_id"])
            x, y, w, h, score = *map(float, d["bbox"]), float(d.get("score", 1.0))
            if not (w > 0 and h > 0 and np.isfinite([x, y, w, h, score]).all()):
                raise ValueError
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DataError(f"{path}: detection {number} is not a usable box", BOX_HELP) from None
        if i is not None:
            rows.append((i, x, y, w, h, score))
    if not rows:
        raise DataError(f"{path} has no box for these {len(files)} images", "check image_id or file_name")
    if len(rows) < len(detections):
        say(f"left out: {len(detections) - len(rows)} of {len(detections)} boxes, which are of other images")
    table = np.array(sorted(rows))
    image = table[:, 0].astype(np.int64)
    images = Images(np.array([str(p) for p in files]), np.array(ids, np.int64))
    return Boxes(images, image, table[:, 1:5], table[:, 5], np.zeros_like(image))


def draw_overlays(out: Any, names: dict[int, str], results: list[dict[str, Any]], joints: Any) -> None:
    """One picture per image that could be read."""
    import cv2

    from mipnet.inference.overlays import draw_poses

    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    for image_id, name in names.items():
        image = readable(Path(name))
        if image is None:
            continue
        drawn = draw_poses(image, by_image[image_id], joints)
        _, content = cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        out.write(f"overlays/{image_id}_{Path(name).stem}.jpg", content.tobytes())
