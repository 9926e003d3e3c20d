"""``mipnet data import``: a data set of YOLO-pose as one in COCO's format."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from mipnet.cli.shared_options import Call
from mipnet.config.flags import option
from mipnet.console import say
from mipnet.errors import ConfigError
from mipnet.experiment.progress import Progress
from mipnet.storage import Folder

ABOUT = (
    "A data set of YOLO-pose (data.yaml, pictures, a label file each) as COCO's JSON, skeleton and settings."
)
SECTIONS = ("data.max_bad_share",)


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet data import``."""

    source: str = option("", "data.yaml, or the folder that has one", positional=True)
    out: str = option("", "folder for annotations, skeleton and settings; pictures stay", positional=True)
    verbose: bool = option(False, "lines even in a terminal")


def run(options: Options, call: Call) -> int:
    """Convert, say what became of every line and picture, and how to go on."""
    if not options.source or not options.out:
        raise ConfigError("which data set, and where to", "mipnet data import YAML_OR_FOLDER OUT")
    limit, out = call.config.data.max_bad_share, Folder.of(options.out).local_path
    from mipnet.data.yolo_dataset import read_yolo
    from mipnet.data.yolo_output import write_coco

    with Progress("reading", "picture", options.verbose) as progress:
        dataset = read_yolo(options.source, progress.update)
    dataset.check(limit)
    settings = write_coco(dataset, out)
    for split, content in dataset.splits.items():
        people = content["annotations"]
        labelled = sum(person["num_keypoints"] > 0 for person in people)
        say(
            f"{split:<9} {len(content['images'])} pictures, {dataset.empty[split]} of them without people; "
            f"{len(people)} people, {labelled} with labelled joints"
        )
    for title, lines in {"left out": dataset.left_out, "mended": dataset.reader.mended.lines()}.items():
        for line in lines:
            say(f"{title:<9} {line}")
    for note in dataset.notes:
        say(note)
    say(f"settings  {settings}")
    config = shlex.quote(str(settings))
    say(f"next      mipnet data check --config {config}, then mipnet train --config {config}")
    return 0
