"""``mipnet predict``: the pictures and boxes that it is given, their poses, and the overlays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mipnet.config import Config, to_yaml
from mipnet.console import say
from mipnet.data.coco import Boxes, ImageIndex
from mipnet.data.crops import read_image
from mipnet.data.json_files import read_json
from mipnet.data.ochuman import ids_from_names
from mipnet.data.parquet import from_parquet, row_names, row_uris
from mipnet.data.validation import check_readable
from mipnet.errors import DataError, UserError
from mipnet.experiment.datasets import CorruptImageLog
from mipnet.experiment.progress import Progress
from mipnet.inference import output_shards
from mipnet.skeletons import Skeleton
from mipnet.storage import Folder, plain_uri, split_uri
from mipnet.visualization.overlays import draw_poses, encode_jpeg

BOXES_HINT = "give detections as [{image_id or file_name, bbox: [x, y, w, h], score}]"
PREFLIGHT_READ_LIMIT = 32
"""So many pictures are decoded once more than needed rather than starting a cluster in vain."""
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class Pictures:
    """The pictures to predict: of each its URI, its name in the output, and its COCO id."""

    uris: list[str]
    names: list[str]
    ids: list[int]


def find_pictures(paths: Sequence[str]) -> Pictures:
    """The pictures of files, folders and Parquet tables, given as paths or URIs; sorted by URI.

    Raises:
        UserError: nothing is named, something does not exist, or a folder has no picture.
    """
    if not paths:
        raise UserError("no images", "e.g. mipnet predict photo.jpg, or a folder of pictures")
    found: dict[str, str] = {}  # URI -> name
    for path in paths:
        folder = Folder.of(path)
        parent, name = split_uri(folder.uri)
        if name.lower().endswith(".parquet") and parent.exists(name):
            uris = row_uris(folder.uri)
            found |= dict(zip(uris, row_names(folder.uri) or uris, strict=True))
        elif not folder.exists():
            raise UserError(f"{path} does not exist", "give pictures, or folders of pictures")
        elif folder.is_local and folder.local_path.is_file():
            found[str(folder.local_path.resolve())] = str(folder.local_path.resolve())
        elif name.lower().endswith(PICTURE_SUFFIXES):
            found[folder.uri] = folder.uri
        else:
            names = [name for name in folder.files() if name.lower().endswith(PICTURE_SUFFIXES)]
            if not names:
                raise UserError(f"{path} holds no pictures", f"they end in {', '.join(PICTURE_SUFFIXES)}")
            if folder.is_local:
                folder = Folder(str(folder.local_path.resolve()))
            found |= {folder.path(name): folder.path(name) for name in names}
    uris = sorted(found, key=uri_order)
    names = [plain_uri(found[uri]) for uri in uris]
    # 000000000139.jpg of COCO has the id 139.
    return Pictures(uris, names, ids_from_names([PurePosixPath(name).stem for name in names]))


def check_if_few(pictures: Pictures, max_bad_share: float) -> None:
    """Decode the pictures before Ray is started, if they are few.

    Raises:
        DataError: more than ``max_bad_share`` of them cannot be read.
    """
    if len(pictures.uris) > PREFLIGHT_READ_LIMIT:
        return
    named = zip(pictures.uris, pictures.names, strict=True)
    unreadable = [name for uri, name in named if read_image(uri) is None]
    check_readable(unreadable, len(pictures.uris), max_bad_share)


def uri_order(uri: str) -> tuple[str, int]:
    """Sort key: files by name, rows of a table by number."""
    table, _, row = uri.rpartition("#row=")
    return (table, int(row)) if row.isdecimal() and table else (uri, 0)


def images_of(pictures: Pictures) -> ImageIndex:
    return ImageIndex(np.array(pictures.uris), np.array(pictures.ids, np.int64))


def whole_pictures(pictures: Pictures) -> Boxes:
    """One box for each picture: nan, which the task that decodes it replaces by the whole picture."""
    n = len(pictures.uris)
    images, whole = images_of(pictures), np.full((n, 4), np.nan)
    return Boxes(images, np.arange(n), whole, np.ones(n), np.zeros(n, np.int64))


def read_boxes(path: str, pictures: Pictures) -> Boxes:
    """Detections for the pictures, by image_id or file_name.

    Raises:
        DataError: the file is broken, none of its boxes belongs to a picture, or one may belong to several.
    """
    folder, name = split_uri(Folder.of(path).uri)
    detections = read_json(folder, name, "check --boxes")
    if not isinstance(detections, list):
        raise DataError(f"{path} is not a list", BOXES_HINT)
    index, ambiguous = picture_index(pictures)
    rows = []
    for number, detection in enumerate(detections):
        try:
            key, *box = read_detection(detection)
            i = index.get(key)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DataError(f"{path}: detection {number} is not a usable box", BOXES_HINT) from None
        if key in ambiguous:
            raise DataError(
                f"{path}: detection {number} is of {key!r:.50}, as several images are called",
                "give it a whole path as file_name, or an image_id",
            )
        if i is not None:
            rows.append((i, *box))
    if not rows:
        what = f"{path} has no box for these {len(pictures.uris)} images"
        raise DataError(what, "check image_id or file_name")
    if len(rows) < len(detections):
        say(f"left out: {len(detections) - len(rows)} of {len(detections)} boxes, which are of other images")
    table = np.array(sorted(rows))
    image = table[:, 0].astype(np.int64)
    return Boxes(images_of(pictures), image, table[:, 1:5], table[:, 5], np.zeros_like(image))


def picture_index(pictures: Pictures) -> tuple[dict[Any, int], set[str]]:
    """Each id, whole name and short name -> number of its picture; and the names of several pictures."""
    short = [PurePosixPath(name).name for name in pictures.names]
    index: dict[Any, int] = {image_id: i for i, image_id in enumerate(pictures.ids)}
    for names in (short, pictures.names):  # whole names win over short ones
        index |= {name: i for i, name in enumerate(names)}
    ambiguous = {name for name, count in Counter(pictures.names).items() if count > 1}
    ambiguous |= {name for name, count in Counter(short).items() if count > 1} - set(pictures.names)
    return index, ambiguous


def read_detection(detection: Any) -> tuple[Any, float, float, float, float, float]:
    """(image_id or file_name, x, y, width, height, score) of an entry of the file.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is not a usable box.
    """
    key = detection["file_name"] if "file_name" in detection else detection["image_id"]
    x, y, w, h, score = *map(float, detection["bbox"]), float(detection.get("score", 1.0))
    if not (w > 0 and h > 0 and np.isfinite([x, y, w, h, score]).all()):
        raise ValueError("a box needs finite values and a positive size")
    return key, x, y, w, h, score


def predict_pictures(
    pictures: Pictures, boxes: Boxes, model: Folder, config: Config, out: Folder, *, verbose: bool = False
) -> tuple[int, int]:
    """Predict the poses in the boxes and write results and configuration to ``out``.

    Ray is started only if some pictures are not done yet.

    Args:
        pictures, boxes: to predict.
        model: its folder.
        config: of the model, with the settings of the evaluation and the resources.
        out: for results and intermediate files.
        verbose: show Ray's own messages.

    Returns:
        number of poses, number of images.

    Raises:
        DataError: more pictures than ``data.max_bad_share`` cannot be decoded.
        UserError: the cluster cannot be used.
    """
    from mipnet.ray_runtime.probes import probe_files
    from mipnet.ray_runtime.session import connect

    check_if_few(pictures, config.data.max_bad_share)
    digest = output_shards.predictions_digest(boxes, model.read("weights.safetensors"), config)
    shards = output_shards.OutputShards.open(out, digest, pictures.uris)
    if shards.resumed:
        say(f"going on: {shards.resumed} of {shards.images} images are done")
    corrupt = output_shards.known_corrupt_images(shards)
    if shards.resumed < shards.images:
        with connect(config.resources, verbose) as resources:
            probe_files([model.path("model.json"), pictures.uris[0]])
            with Progress("predicting", "image", verbose) as progress:
                names = dict(enumerate(pictures.names))
                corrupt = output_shards.predict_shards(
                    boxes, shards, model, config, resources, progress=progress.update, names=names
                )
    CorruptImageLog()(corrupt)
    out.write("config.yaml", to_yaml(config))
    return output_shards.write_predictions(shards, out)


def draw_overlays(out: Folder, pictures: Pictures, count: int, joints: Skeleton) -> None:
    """Draw the poses of the first ``count`` pictures, those left out that cannot be decoded."""
    rows = from_parquet(out.read("results.parquet")).slice(0, count).to_pylist()
    for uri, row in zip(pictures.uris, rows, strict=False):
        image = read_image(uri) if row["readable"] else None
        if image is None:
            continue
        drawn = draw_poses(image, row["poses"], joints)
        stem = PurePosixPath(row["file_name"].replace("#", "_")).stem
        out.write(f"overlays/{row['image_id']}_{stem}.jpg", encode_jpeg(drawn), durable=False)
