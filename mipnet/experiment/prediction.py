"""``mipnet predict``: the pictures and boxes that it is given, their poses, and the overlays."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mipnet.config import Config, to_yaml
from mipnet.config.schema import EvaluationConfig
from mipnet.console import say
from mipnet.data.categories import Category
from mipnet.data.coco import Boxes
from mipnet.data.crops import read_image
from mipnet.data.detections import detection_boxes, detection_list
from mipnet.data.image_index import read_uri
from mipnet.data.image_names import PICTURE_SUFFIXES, pictures_among
from mipnet.data.orientation import LOOKED_AT, label_frames
from mipnet.data.parquet import from_parquet, row_names, row_uris
from mipnet.data.shards import byte_ranges
from mipnet.data.validation import Findings, check_readable
from mipnet.errors import UserError, first_few
from mipnet.evaluation.operating_point import OperatingPoint, operating_point_line
from mipnet.experiment.datasets import CorruptImageLog
from mipnet.experiment.picture_list import Pictures, relative_names
from mipnet.experiment.progress import Progress
from mipnet.inference import output_shards
from mipnet.inference.detected_boxes import BOXES_FILE, DETECTIONS_FOLDER, Detection, write_boxes
from mipnet.inference.detector import Detector, DetectorFile
from mipnet.inference.detector_layouts import Letterbox
from mipnet.inference.shard_prediction import predict_shards
from mipnet.skeletons import Skeleton
from mipnet.storage import BYTE_RANGE, Folder, is_text, legible, plain_uri, split_uri
from mipnet.visualization.example_grids import moved
from mipnet.visualization.overlays import MIN_JOINT_SCORE, contact_sheet, draw_poses, encode_jpeg, fit

PREFLIGHT_READ_LIMIT = 32
"""So many pictures are decoded once more than needed rather than starting a cluster in vain."""

OVERLAY_SIZE = 900  # px, longer side of an overlay at least
OVERLAYS_FOLDER, STEM_BYTES = "overlays", 100  # bytes: of a picture's name, in that of its overlay
OVERLAY_NAME = re.compile(r"-?\d+_.*\.jpg", re.DOTALL)
"""What ``draw_overlays`` writes: other files in their folder are not ours to remove."""
SHEET_FILE, SHEET_PICTURES, SHEET_CELL = "overlays.jpg", 36, 600  # cell: px, longer side of a picture
WRITTEN = (OVERLAYS_FOLDER, SHEET_FILE, "results.parquet", output_shards.SHARDS_FOLDER, DETECTIONS_FOLDER)
"""Pictures and tables in the folder of the results."""


def find_pictures(paths: Sequence[str], out: str = "") -> Pictures:
    """The pictures of files, folders and Parquet tables, given as paths or URIs; sorted by URI.

    Args:
        paths: of them.
        out: folder of the results. The overlays in it are left out: the same command would predict in them
            when it is given again.

    Raises:
        UserError: nothing is named, something does not exist, or a folder has no picture.
    """
    if not paths:
        raise UserError("no images", "e.g. mipnet predict photo.jpg, or a folder of pictures")
    found: dict[str, tuple[str, str]] = {}  # URI -> what was given, name in there
    for path in paths:
        folder = Folder.of(path)
        if not is_text(folder.uri):
            raise UserError(f"the name {legible(path)} is not UTF-8", "rename it")
        parent, name = split_uri(folder.uri)
        pictures: dict[str, tuple[str, str]] = {}
        if name.lower().endswith(".parquet") and parent.exists(name):
            pictures = rows_of_table(folder.uri)
        elif not folder.exists():
            raise UserError(f"{path} does not exist", "give pictures, or folders of pictures")
        elif folder.is_local and folder.local_path.is_file():
            pictures = {str(folder.local_path.resolve()): (parent.uri, PurePosixPath(path).name)}
        elif name.lower().endswith(PICTURE_SUFFIXES):
            pictures = {folder.uri: (parent.uri, name)}
        else:
            pictures = pictures_in(folder, path, out)
        found = pictures | found
    if out and (drawn := written_into(Folder.of(out), found)):
        shown = first_few([plain_uri(uri) for uri in drawn])
        say(f"left out: {len(drawn)} x overlay of an earlier prediction: {shown}")
        for uri in drawn:
            del found[uri]
        if not found:
            raise UserError(f"all pictures are overlays in {out}", "give other pictures, or another --out")
    uris = sorted(found, key=uri_order)
    return Pictures(uris, relative_names([(plain_uri(found[uri][0]), found[uri][1]) for uri in uris]))


def pictures_in(folder: Folder, path: str, out: str = "") -> dict[str, tuple[str, str]]:
    """The pictures of a folder, or without any the rows of its Parquet tables: URI -> what was given, name in
    there.

    Args:
        folder: to look into.
        path: of it as it was given, for messages.
        out: folder of the results, whose tables are left out.

    Raises:
        UserError: there are none.
        DataError: a table has no pictures.
    """
    if folder.is_local:
        folder = Folder(str(folder.local_path.resolve()))
    if packed := byte_ranges(folder):
        return {folder.path(place): (folder.uri, name) for name, place in packed.items()}
    files = folder.files()
    listed, left_out = pictures_among(files)
    for line in left_out.lines():
        say(f"left out: {line}")
    tables = {
        folder.path(name): name for name in files if is_text(name) and name.lower().endswith(".parquet")
    }
    for uri in written_into(Folder.of(out), tables) if out else ():
        del tables[uri]
    if tables and listed:
        names = first_few([*tables.values()])
        say(f"left out: {len(tables)} x Parquet table beside pictures: {names}; give {path}/*.parquet")
    found = {folder.path(name): (folder.uri, name) for name in listed}
    for uri in tables if not listed else ():
        found |= rows_of_table(uri)
    if not found:
        suffixes = ", ".join(PICTURE_SUFFIXES)
        raise UserError(f"{path} holds no pictures", f"they end in {suffixes}; tables of them in .parquet")
    return found


def written_into(out: Folder, uris: Iterable[str]) -> list[str]:
    """Those of pictures and tables that a prediction into ``out`` writes."""
    if out.is_local:
        out = Folder(str(out.local_path.resolve()))
    own = {plain_uri(out.path(name)) for name in WRITTEN}
    folders = tuple(f"{each}/" for each in own)
    return [uri for uri in uris if plain_uri(uri) in own or plain_uri(uri).startswith(folders)]


def rows_of_table(uri: str) -> dict[str, tuple[str, str]]:
    """The pictures of a Parquet table: URI -> what was given, name in there; by its rows' numbers where
    names are missing or not distinct."""
    uris, names = row_uris(uri), row_names(uri)
    if names is None or len({*names}) < len(names):
        parent, table = split_uri(plain_uri(uri))
        return {row: (parent.uri, f"{table}#row={number}") for number, row in enumerate(uris)}
    return {row: (uri, name) for row, name in zip(uris, names, strict=True)}


def check_if_few(pictures: Pictures, max_bad_share: float) -> None:
    """Decode the pictures before Ray is started, if they are few.

    Raises:
        DataError: more than ``max_bad_share`` of them cannot be read.
    """
    if len(pictures.uris) > PREFLIGHT_READ_LIMIT:
        return
    unreadable = [plain_uri(uri) for uri in pictures.uris if read_image(uri) is None]
    check_readable(unreadable, len(pictures.uris), max_bad_share)


def say_what_is_turned(pictures: Pictures) -> None:
    """Count the files that are turned by their EXIF orientation, or scaled from 16 bits; of many, a part."""
    files = [{"file_name": uri, "width": 0, "height": 0} for uri in pictures.uris if "#row=" not in uri]
    found = Findings()
    chosen = files[:: 1 + len(files) // LOOKED_AT]
    label_frames(chosen, lambda uri: partial(read_uri, uri), "displayed", found)
    part = "" if len(chosen) == len(pictures.uris) else f" ({len(chosen)} of {len(pictures.uris)} looked at)"
    for line in found.lines():
        say(f"{line}{part}")


def uri_order(uri: str) -> tuple[str, int]:
    """Sort key: files by name, rows of a table and what is packed in a shard by number."""
    if found := BYTE_RANGE.search(uri):
        return uri[: found.start(1)], int(found[2])
    table, _, row = uri.rpartition("#row=")
    return (table, int(row)) if row.isdecimal() and table else (uri, 0)


def read_boxes(path: str) -> list[Any]:
    """The content of the file of ``--boxes``.

    Raises:
        DataError: it is missing or no list.
    """
    return detection_list(*split_uri(Folder.of(path).uri), "check --boxes")


def checked_detector(path: str) -> tuple[DetectorFile, Letterbox]:
    """The file of ``--detector``, and how a picture is fitted into its input, after running it once.

    Raises:
        UserError: it is no detector that is known.
    """
    file = DetectorFile.read(path)
    detector = Detector(file)
    say(f"detector: {detector.layout.name}, {'x'.join(map(str, detector.frame.size))} px")
    return file, detector.frame


def boxes_in(
    pictures: Pictures, detections: Sequence[Any], path: str, category: Category, config: Config
) -> Boxes:
    """The detections of persons in the pictures, see ``detection_boxes``; says what is left out.

    Args:
        pictures: to predict.
        detections: content of the file.
        path: of the file, for messages.
        category: of persons.
        config: score threshold, NMS threshold and the share of boxes that may be unusable.

    Raises:
        DataError: none of the boxes can be used, or the picture of one is guesswork.
    """
    boxes = detection_boxes(
        detections,
        path,
        pictures.for_detections(category),
        min_score=config.data.box_score_threshold,
        max_iou=config.data.box_nms,
        max_bad_share=config.data.max_bad_share,
    )
    for note in boxes.notes:
        say(f"warning: {note}")
    without = sorted({*range(len(pictures.uris))} - {*boxes.image_index.tolist()})
    if without:
        say(f"without a box: {len(without)} images ({first_few([pictures.names[i] for i in without])})")
    return boxes


def least_score(
    given: float | None, point: OperatingPoint | None, chosen_with: EvaluationConfig, used: EvaluationConfig
) -> float:
    """The least score of a pose that is kept; says where it comes from.

    Args:
        given: by the user; None is the operating point's.
        point: of the model.
        chosen_with: the model's own settings, with which the operating point was chosen.
        used: those of the prediction; other ones make other scores.
    """
    if given is not None:
        return given
    if point is None:
        say("all poses are kept: the model has no operating point, as imported weights do; see --min-score")
        return -math.inf
    if replace(chosen_with, batch_size=used.batch_size, precision=used.precision) != used:
        say("warning: the operating point was chosen with other evaluation settings, see model.json")
    say(f"{operating_point_line(point)}; --min-score 0 keeps all")
    return point.pose_score


def predict_pictures(
    pictures: Pictures,
    boxes: Boxes,
    model: Folder,
    config: Config,
    out: Folder,
    *,
    category_id: Any = 1,
    min_score: float = -math.inf,
    verbose: bool = False,
    detector: tuple[DetectorFile, Letterbox] | None = None,
) -> output_shards.Written:
    """Predict the poses in the boxes and write results and configuration to ``out``.

    Ray is started only if some pictures are not done yet.

    Args:
        pictures, boxes: to predict.
        model: its folder.
        config: of the model, with the settings of the evaluation and the resources.
        out: for results and intermediate files.
        category_id: of the results.
        min_score: least score of a pose that is kept.
        verbose: show Ray's own messages.
        detector: finds the boxes, which are kept in ``out`` and written to boxes.json.

    Raises:
        DataError: more pictures than ``data.max_bad_share`` cannot be decoded.
        UserError: the cluster cannot be used.
    """
    from mipnet.ray_runtime.probes import probe_files
    from mipnet.ray_runtime.session import connect

    check_if_few(pictures, config.data.max_bad_share)
    say_what_is_turned(pictures)
    weights = model.read("weights.safetensors")
    detection = Detection.open(*detector, out, pictures.uris) if detector else None
    finder = detection.file.digest if detection else ""
    digest = output_shards.predictions_digest(boxes, weights, config, pictures.names, finder)
    shards = output_shards.OutputShards.open(out, digest, pictures.uris)
    if shards.anew:
        say(f"{out.uri} has another prediction: starting anew")
        drawn = [name for name in out.names(OVERLAYS_FOLDER) if OVERLAY_NAME.fullmatch(name)]
        for name in (SHEET_FILE, *(f"{OVERLAYS_FOLDER}/{name}" for name in drawn)):
            out.remove(name)
        if len(boxes) and np.isnan(boxes.boxes).all():  # others may have been given as this very file
            out.remove(BOXES_FILE)
    if detection:  # boxes.json needs the boxes of all
        shards = replace(shards, done=shards.done & detection.shards.done)
    if shards.resumed:
        say(f"going on: {shards.resumed} of {shards.images} images are done")
    corrupt = output_shards.known_corrupt_images(shards)
    if shards.resumed < shards.images:
        with connect(config.resources, verbose) as resources:
            probe_files([model.path("model.json"), pictures.uris[0]])
            with Progress("predicting", "image", verbose) as progress:
                names = dict(enumerate(pictures.names))
                corrupt = predict_shards(
                    boxes,
                    shards,
                    model,
                    config,
                    resources,
                    progress=progress.update,
                    names=names,
                    detection=detection,
                )
    CorruptImageLog()(corrupt)
    if detection:
        ids = [pictures.own_id(number) for number in pictures.ids]
        people = write_boxes(detection.shards, out, pictures.names, ids, category_id)
        say(f"{people} people found: {out.path(BOXES_FILE)}")
    out.write("config.yaml", to_yaml(config))
    return output_shards.write_predictions(shards, out, pictures.own_id, category_id, min_score)


def draw_overlays(
    out: Folder,
    pictures: Pictures,
    joints: Skeleton,
    point: OperatingPoint | None,
    *,
    count: int,
    show: bool,
) -> int:
    """Draw the kept poses of the first ``count`` pictures, those left out that cannot be decoded.

    Args:
        out: folder of the results.
        pictures: that were predicted.
        joints: skeleton of the poses.
        point: of the model; says from which score on joints are drawn.
        count: so many pictures are drawn into the folder ``overlays``.
        show: draw the first pictures, at most ``SHEET_PICTURES``, into one contact sheet, too.

    Returns:
        number of pictures in the contact sheet.
    """
    min_joint_score = point.joint_score if point else MIN_JOINT_SCORE
    draw = partial(draw_poses, skeleton=joints, min_joint_score=min_joint_score)
    cells: list[np.ndarray] = []
    captions: list[str] = []
    limit = max(count, SHEET_PICTURES if show else 0)
    rows = from_parquet(out.read("results.parquet")).slice(0, limit).to_pylist()
    for number, (uri, image_id, row) in enumerate(zip(pictures.uris, pictures.ids, rows, strict=False)):
        image = read_image(uri) if row["readable"] else None
        if image is None:
            continue
        kept = [pose for pose in row["poses"] if pose["keep"]]
        if number < count:
            drawn = draw(image, kept, longer_side=OVERLAY_SIZE)
            stem = PurePosixPath(row["file_name"].replace("#", "_")).stem
            # Names are of 255 bytes at most; id, ending and that of a file being written come to it.
            stem = stem.encode()[:STEM_BYTES].decode(errors="ignore")
            out.write(f"{OVERLAYS_FOLDER}/{image_id}_{stem}.jpg", encode_jpeg(drawn), durable=False)
        if show and len(cells) < SHEET_PICTURES:
            # Drawn at the size in the sheet, because lines would vanish when a large picture is reduced.
            poses = [moved(pose, 0, 0, SHEET_CELL / max(image.shape[:2])) for pose in kept]
            cells.append(draw(fit(image, SHEET_CELL), poses))
            captions.append(row["file_name"])
    if cells:
        out.write(SHEET_FILE, encode_jpeg(contact_sheet(cells, captions, SHEET_CELL)))
    return len(cells)
