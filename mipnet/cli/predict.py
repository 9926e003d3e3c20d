"""``mipnet predict``: poses of the people in images, as COCO results and overlays."""

from __future__ import annotations

from dataclasses import dataclass

from mipnet.cli.shared_options import MODEL_HELP, STORAGE_HELP, VERBOSE_HELP, Call
from mipnet.config import from_dict
from mipnet.config.flags import option
from mipnet.config.schema import NonNegative
from mipnet.console import say
from mipnet.errors import first_few
from mipnet.experiment.arguments import checked_model, writable_folder, writable_storage

ABOUT = "Find the poses of people."
SECTIONS = (
    "evaluation",
    "resources",
    "data.category",
    "data.box_score_threshold",
    "data.box_nms",
    "data.max_bad_share",
)


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet predict``."""

    images: tuple[str, ...] = option(
        (), "pictures, folders of pictures, or Parquet tables of them; paths or URIs", positional=True
    )
    model: str = option("models:/mipnet@candidate", MODEL_HELP)
    images_json: str = option("", "COCO JSON that lists which of the pictures to take, and their ids")
    boxes: str = option("", "COCO detections JSON [{file_name or image_id, bbox, score}]; else --detector")
    detector: str = option("", "ONNX file that finds the people: RF-DETR, RTMDet, YOLOX, Ultralytics' YOLO")
    out: str = option("predictions", "folder for results.json, results.parquet and overlays")
    min_score: NonNegative | None = option(
        None, "poses from this score on are kept: drawn, and marked in the results [the model's; 0: all]"
    )
    overlays: int = option(500, "draw the kept poses of the first so many pictures")
    show: bool = option(False, "draw all pictures, at most 36, into one contact sheet, overlays.jpg")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, VERBOSE_HELP)


def run(options: Options, call: Call) -> int:
    """Predict, write the results and draw overlays; the same command goes on after an interruption."""
    from mipnet.errors import UserError
    from mipnet.experiment import prediction
    from mipnet.experiment.picture_list import person_category, pictures_of_list, read_list
    from mipnet.registry.resolve import model_operating_point

    source = options.images_json
    pictures = prediction.find_pictures(options.images, options.out)
    listed = read_list(source) if source else {}
    if options.boxes and options.detector:
        raise UserError("both --boxes and --detector are given", "leave one out")
    detections = prediction.read_boxes(options.boxes) if options.boxes else []
    detector = prediction.checked_detector(options.detector) if options.detector else None
    storage = writable_storage(options.storage)
    out = writable_folder(options.out)
    model, trained = checked_model(options.model, storage)
    config = from_dict(call.settings, trained)
    point = model_operating_point(model)
    min_score = prediction.least_score(options.min_score, point, trained.evaluation, config.evaluation)
    if source:
        pictures, notes = pictures_of_list(pictures, listed, source, config.data.max_bad_share)
        for note in notes:
            say(f"left out: {note}")
    category = person_category(listed, source, config.data.category, config.data.joints)
    if options.boxes:
        boxes = prediction.boxes_in(pictures, detections, options.boxes, category, config)
    else:
        boxes = pictures.whole()
        if not detector:
            say(
                "each whole image is taken as one box: name a detector with --detector FILE.onnx, "
                "or its boxes with --boxes FILE.json"
            )
    written = prediction.predict_pictures(
        pictures,
        boxes,
        model,
        config,
        out,
        category_id=category.entry["id"],
        min_score=min_score,
        verbose=options.verbose,
        detector=detector,
    )
    say(
        f"{written.poses} poses of {written.images} images, {written.kept} of them kept: "
        f"{out.path('results.json')}, results.parquet"
    )
    if unnumbered := pictures.unnumbered:
        say(
            f"image_id of {len(unnumbered)} images is a number without meaning ({first_few(unnumbered)}): "
            "go by file_name, or give ids with --images-json"
        )
    joints = config.data.joints
    sheet = prediction.draw_overlays(out, pictures, joints, point, count=options.overlays, show=options.show)
    if options.overlays:
        say(f"overlays: {out.path('overlays')}")
    if options.show:
        say(f"contact sheet of {sheet} of {written.images} pictures: {out.path(prediction.SHEET_FILE)}")
    return 0
