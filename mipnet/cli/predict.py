"""``mipnet predict``: poses of the people in images, as COCO results and overlays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mipnet.config import Config, from_dict, preset, to_yaml
from mipnet.config.flags import option, parse
from mipnet.console import say
from mipnet.data.ochuman import image_ids
from mipnet.data.parquet import from_parquet, row_names, row_uris
from mipnet.errors import DataError, UserError
from mipnet.experiment.common import STORAGE_HELP, output_folder, storage_at, usable_model
from mipnet.experiment.corrupt_images import Unreadable
from mipnet.experiment.progress import Progress
from mipnet.storage import Folder, parent_of

BOX_HELP = "give detections as [{image_id or file_name, bbox: [x, y, w, h], score}]"
FEW = 32  # pictures that are read twice rather than start a cluster for nothing
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet predict``."""

    images: tuple[str, ...] = option(
        (), "pictures, folders of pictures, or Parquet tables of them; paths or URIs", positional=True
    )
    model: str = option(
        "models:/mipnet@candidate", "models:/NAME@ALIAS, the name of a run, or a model folder"
    )
    boxes: str = option("", "COCO detections JSON [{image_id or file_name, bbox, score}]; else whole images")
    out: str = option("predictions", "folder for results.json, results.parquet and overlays")
    overlays: int = option(500, "draw the poses of the first so many pictures")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, "show Ray's own messages")


@dataclass(frozen=True)
class Pictures:
    """What is to be predicted: the address of each picture, its name in the output, and its COCO id."""

    uris: list[str]
    names: list[str]
    ids: list[int]


def main(command: str, argv: Sequence[str]) -> int:
    """Predict, write the results and draw overlays; the same command goes on after an interruption."""
    options, settings = parse_flags(command, argv)
    pictures = find_pictures(options.images)
    listed = read_boxes(options.boxes, pictures) if options.boxes else whole_pictures(pictures)
    storage = storage_at(options.storage)
    out = output_folder(options.out)

    from mipnet.ray_runtime.session import connect, probe_files, quieten

    quieten(options.verbose)
    from mipnet.inference.output_shards import (
        Parts,
        digest_of,
        known_unreadable,
        predict_parts,
        write_outcome,
    )

    model, trained = usable_model(options.model, storage)
    config = from_dict(settings, trained)
    if not options.boxes:
        say("no --boxes: each whole image is taken as one box")
    check_few(pictures, config.data.max_bad_share)
    digest = digest_of(listed, model.read("weights.safetensors"), config)
    parts = Parts.open(out, digest, len(pictures.uris))
    if parts.resumed:
        say(f"going on: {parts.resumed} of {parts.images} images are done")
    unreadable = known_unreadable(parts)
    if parts.resumed < parts.images:
        with connect(config.resources, options.verbose) as resources:
            probe_files([model.path("model.json"), pictures.uris[0]])
            with Progress("predicting", "image", options.verbose) as progress:
                names = dict(enumerate(pictures.names))
                unreadable = predict_parts(listed, parts, model, config, resources, progress.update, names)
    Unreadable()(unreadable)
    out.write("config.yaml", to_yaml(config))
    poses, images = write_outcome(parts, out)
    say(f"{poses} poses of {images} images: {out.path('results.json')}, results.parquet")
    if options.overlays:
        draw_overlays(out, pictures, options.overlays, config.data.joints)
        say(f"overlays: {out.path('overlays')}")
    return 0


def parse_flags(command: str, argv: Sequence[str]) -> tuple[Options, dict[str, Any]]:
    sections = ["evaluation", "resources", "data.max_bad_share"]
    return parse(command, "Find the poses of people.", Options, sections, preset("tiny"), argv)


def read(command: str, argv: Sequence[str]) -> tuple[Options, Config]:
    """The flags as far as they are known without the model."""
    options, settings = parse_flags(command, argv)
    return options, from_dict(settings, preset("tiny"))


def find_pictures(places: Sequence[str]) -> Pictures:
    """The pictures that paths and URIs of files, folders and tables name, in the order of their addresses.

    Raises:
        UserError: nothing is named, something does not exist, or a folder has no picture.
    """
    if not places:
        raise UserError("no images", "e.g. mipnet predict photo.jpg, or a folder of pictures")
    found: dict[str, str] = {}  # address -> name
    for place in places:
        folder = Folder.of(place)
        parent, name = parent_of(folder.uri)
        if name.lower().endswith(".parquet") and parent.exists(name):
            uris = row_uris(folder.uri)
            found |= dict(zip(uris, row_names(folder.uri) or uris, strict=True))
        elif not folder.exists():
            raise UserError(f"{place} does not exist", "give pictures, or folders of pictures")
        elif folder.is_local and folder.local_path.is_file():
            found[str(folder.local_path.resolve())] = str(folder.local_path.resolve())
        elif name.lower().endswith(PICTURES):
            found[folder.uri] = folder.uri
        else:
            names = [name for name in folder.files() if name.lower().endswith(PICTURES)]
            if not names:
                raise UserError(f"{place} holds no pictures", f"they end in {', '.join(PICTURES)}")
            if folder.is_local:
                folder = Folder(str(folder.local_path.resolve()))
            found |= {folder.path(name): folder.path(name) for name in names}
    uris = sorted(found, key=address_order)
    names = [plain_address(found[uri]) for uri in uris]
    # 000000000139.jpg of COCO has the id 139.
    return Pictures(uris, names, image_ids([PurePosixPath(name).stem for name in names]))


def check_few(pictures: Pictures, max_bad_share: float) -> None:
    """Try to read the pictures before a cluster is touched, if that takes no time.

    Raises:
        DataError: more than ``max_bad_share`` of them cannot be read.
    """
    if len(pictures.uris) > FEW:
        return
    from mipnet.data.crops import read_image
    from mipnet.data.validation import check_readable

    unreadable = [
        name for uri, name in zip(pictures.uris, pictures.names, strict=True) if read_image(uri) is None
    ]
    check_readable(unreadable, len(pictures.uris), max_bad_share)


def plain_address(uri: str) -> str:
    """A URI without the parameters that only say how to reach its store."""
    place, mark, row = uri.partition("#row=")
    return place.partition("?")[0] + mark + row if "://" in uri else uri


def address_order(uri: str) -> tuple[str, int]:
    """Files by name, rows of a table by number."""
    table, _, row = uri.rpartition("#row=")
    return (table, int(row)) if row.isdecimal() and table else (uri, 0)


def images_of(pictures: Pictures) -> Any:
    from mipnet.data.coco import Images

    return Images(np.array(pictures.uris), np.array(pictures.ids, np.int64))


def whole_pictures(pictures: Pictures) -> Any:
    """One box per picture: nan, which the task that reads it makes the whole picture."""
    from mipnet.data.coco import Boxes

    n = len(pictures.uris)
    return Boxes(
        images_of(pictures), np.arange(n), np.full((n, 4), np.nan), np.ones(n), np.zeros(n, np.int64)
    )


def read_boxes(path: str, pictures: Pictures) -> Any:
    """Detections for the images, by image_id or file_name.

    Raises:
        DataError: the file is broken, none of its boxes belongs to an image, or one may belong to several.
    """
    from mipnet.data.coco import Boxes, read_json

    folder, name = parent_of(Folder.of(path).uri)
    detections = read_json(folder, name, "check --boxes")
    if not isinstance(detections, list):
        raise DataError(f"{path} is not a list", BOX_HELP)
    short = [PurePosixPath(name).name for name in pictures.names]
    index: dict[Any, int] = {image_id: i for i, image_id in enumerate(pictures.ids)}
    for names in (short, pictures.names):  # whole names go before short ones
        index |= {name: i for i, name in enumerate(names)}
    several = {name for name, count in Counter(pictures.names).items() if count > 1}
    several |= {name for name, count in Counter(short).items() if count > 1} - set(pictures.names)
    rows = []
    for number, d in enumerate(detections):
        try:
            of = d["file_name"] if "file_name" in d else d["image_id"]
            i = index.get(of)
            x, y, w, h, score = *map(float, d["bbox"]), float(d.get("score", 1.0))
            if not (w > 0 and h > 0 and np.isfinite([x, y, w, h, score]).all()):
                raise ValueError
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DataError(f"{path}: detection {number} is not a usable box", BOX_HELP) from None
        if of in several:
            raise DataError(
                f"{path}: detection {number} is of {of!r:.50}, as several images are called",
                "give it a whole path as file_name, or an image_id",
            )
        if i is not None:
            rows.append((i, x, y, w, h, score))
    if not rows:
        raise DataError(
            f"{path} has no box for these {len(pictures.uris)} images", "check image_id or file_name"
        )
    if len(rows) < len(detections):
        say(f"left out: {len(detections) - len(rows)} of {len(detections)} boxes, which are of other images")
    table = np.array(sorted(rows))
    image = table[:, 0].astype(np.int64)
    return Boxes(images_of(pictures), image, table[:, 1:5], table[:, 5], np.zeros_like(image))


def draw_overlays(out: Folder, pictures: Pictures, count: int, joints: Any) -> None:
    """One picture for each of the first so many that could be read."""
    from mipnet.data.crops import read_image
    from mipnet.visualization.overlays import draw_poses, encode_jpeg

    rows = from_parquet(out.read("results.parquet")).slice(0, count).to_pylist()
    for uri, row in zip(pictures.uris, rows, strict=False):
        image = read_image(uri) if row["readable"] else None
        if image is None:
            continue
        drawn = draw_poses(image, row["poses"], joints)
        stem = PurePosixPath(row["file_name"].replace("#", "_")).stem
        out.write(f"overlays/{row['image_id']}_{stem}.jpg", encode_jpeg(drawn), durable=False)
