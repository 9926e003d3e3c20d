"""``mipnet predict``: poses of the people in images, as COCO results and overlays."""

from __future__ import annotations

from dataclasses import dataclass

from mipnet.cli.shared_options import MODEL_HELP, STORAGE_HELP, VERBOSE_HELP, Call
from mipnet.config import from_dict
from mipnet.config.flags import option
from mipnet.console import say
from mipnet.experiment.arguments import checked_model, writable_folder, writable_storage

ABOUT = "Find the poses of people."
SECTIONS = ("evaluation", "resources", "data.max_bad_share")


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet predict``."""

    images: tuple[str, ...] = option(
        (), "pictures, folders of pictures, or Parquet tables of them; paths or URIs", positional=True
    )
    model: str = option("models:/mipnet@candidate", MODEL_HELP)
    boxes: str = option("", "COCO detections JSON [{image_id or file_name, bbox, score}]; else whole images")
    out: str = option("predictions", "folder for results.json, results.parquet and overlays")
    overlays: int = option(500, "draw the poses of the first so many pictures")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, VERBOSE_HELP)


def run(options: Options, call: Call) -> int:
    """Predict, write the results and draw overlays; the same command goes on after an interruption."""
    from mipnet.experiment import prediction

    pictures = prediction.find_pictures(options.images)
    named = options.boxes
    boxes = prediction.read_boxes(named, pictures) if named else prediction.whole_pictures(pictures)
    storage = writable_storage(options.storage)
    out = writable_folder(options.out)
    model, trained = checked_model(options.model, storage)
    config = from_dict(call.settings, trained)
    if not options.boxes:
        say("no --boxes: each whole image is taken as one box")
    poses, images = prediction.predict_pictures(pictures, boxes, model, config, out, verbose=options.verbose)
    say(f"{poses} poses of {images} images: {out.path('results.json')}, results.parquet")
    if options.overlays:
        prediction.draw_overlays(out, pictures, options.overlays, config.data.joints)
        say(f"overlays: {out.path('overlays')}")
    return 0
