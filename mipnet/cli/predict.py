"""``mipnet predict``: poses of the people in images, as COCO results and overlays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mipnet.cli.shared_options import STORAGE_HELP
from mipnet.config import Config, from_dict, preset
from mipnet.config.flags import option, parse
from mipnet.console import say
from mipnet.experiment.model_source import checked_model
from mipnet.experiment.outputs import writable_folder, writable_storage


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


def main(command: str, argv: Sequence[str]) -> int:
    """Predict, write the results and draw overlays; the same command goes on after an interruption."""
    options, settings = parse_flags(command, argv)
    from mipnet.experiment.prediction_inputs import draw_overlays, find_pictures, read_boxes, whole_pictures

    pictures = find_pictures(options.images)
    boxes = read_boxes(options.boxes, pictures) if options.boxes else whole_pictures(pictures)
    storage = writable_storage(options.storage)
    out = writable_folder(options.out)

    from mipnet.ray_runtime.session import silence_ray

    silence_ray(options.verbose)
    from mipnet.experiment.prediction import predict_pictures

    model, trained = checked_model(options.model, storage)
    config = from_dict(settings, trained)
    if not options.boxes:
        say("no --boxes: each whole image is taken as one box")
    poses, images = predict_pictures(pictures, boxes, model, config, out, verbose=options.verbose)
    say(f"{poses} poses of {images} images: {out.path('results.json')}, results.parquet")
    if options.overlays:
        draw_overlays(out, pictures, options.overlays, config.data.joints)
        say(f"overlays: {out.path('overlays')}")
    return 0


def parse_flags(command: str, argv: Sequence[str]) -> tuple[Options, dict[str, Any]]:
    sections = ["evaluation", "resources", "data.max_bad_share"]
    return parse(
        command, "Find the poses of people.", Options, argv, sections=sections, defaults=preset("tiny")
    )


def parse_config(command: str, argv: Sequence[str]) -> tuple[Options, Config]:
    """The flags, over defaults instead of the model's configuration; for ``jobs/submit.py``."""
    options, settings = parse_flags(command, argv)
    return options, from_dict(settings, preset("tiny"))
