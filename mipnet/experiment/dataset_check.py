"""``mipnet data check``: reads a data set as a training would, and reports about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from mipnet.config import Config
from mipnet.config.schema import AugmentConfig
from mipnet.data.annotation_statistics import SplitStatistics, split_statistics
from mipnet.data.coco import CocoKeypointFile, ImageIndex
from mipnet.data.crops import crop_settings
from mipnet.data.dataset_formats import box_sources_by_split, open_split
from mipnet.data.image_inspection import ImageInspection, inspect_images
from mipnet.data.validation import check_readable
from mipnet.errors import UserError, first_few
from mipnet.experiment.datasets import dataset_location
from mipnet.experiment.preflight import check_split
from mipnet.experiment.progress import Progress
from mipnet.formats import aligned
from mipnet.storage import Folder, readable_storage

NOT_AUGMENTED = AugmentConfig(flip=0, scale=0, rotation_probability=0, shift=0, half_body=0, colour=0)


@dataclass
class SplitInspection:
    """What ``mipnet data check`` found in one split.

    Attributes:
        file: the annotations.
        statistics: of the annotations.
        left_out: a line about each kind of person that cannot be used.
        problem: that would stop a training, or "".
        pixels: of the images that were decoded; None if none were.
    """

    file: CocoKeypointFile
    statistics: SplitStatistics
    left_out: list[str] = field(default_factory=list)
    problem: str = ""
    pixels: ImageInspection | None = None


def existing_dataset(config: Config, storage: str) -> Folder:
    """The data set's folder, which is not rendered here.

    Raises:
        UserError: it does not exist.
    """
    if not config.data.generated:
        folder = Folder.of(config.data.root)
        if not folder.exists():
            raise UserError(f"the data set's folder {folder.uri} does not exist", "check --data (data.root)")
        return folder
    home = readable_storage(storage)
    folder, missing = dataset_location(config, home)
    if missing:
        hint = "mipnet data generate renders it, or give --data"
        raise UserError(f"the benchmark is not in {home.uri} yet", hint)
    return folder


def inspect_split_annotations(
    config: Config, data: Folder, problems: list[str]
) -> dict[str, SplitInspection]:
    """Open every split; appends what would stop a training to ``problems``."""
    splits: dict[str, SplitInspection] = {}
    for split, sources in box_sources_by_split(config.data, training=True).items():
        try:
            file = open_split(config.data, data, split)
            found = SplitInspection(file, split_statistics(file, config.input.size, config.input.padding))
        except UserError as error:
            problems.append(str(error))
            continue
        splits[split] = found
        try:
            found.left_out = check_split(config, data, split, file, sources=sources)
        except UserError as error:
            found.problem = str(error)
            problems.append(found.problem)
    return splits


def inspect_split_images(
    config: Config, splits: Mapping[str, SplitInspection], count: int, problems: list[str]
) -> None:
    """Decode images of every split: all, or ``count`` evenly spread ones; appends to ``problems``."""
    chosen_images = {split: evenly_spaced(found.file.images(), count) for split, found in splits.items()}
    with Progress("reading", "image", total=sum(map(len, chosen_images.values()))) as progress:
        before = 0
        for split, images in chosen_images.items():
            sizes = [(w, h) for w, h in splits[split].file.columns.sizes_of(images.ids).tolist()]
            seen = inspect_images(images, sizes, progress_after(progress, before))
            splits[split].pixels = seen
            before += len(images)
            if splits[split].problem:
                continue
            try:
                check_readable(seen.unreadable, len(images), config.data.max_bad_share)
            except UserError as error:
                problems.append(f"{split}: {error}")


def progress_after(progress: Progress, before: int) -> Callable[[int], None]:
    """The progress callback of a split that follows ``before`` images of others."""
    return lambda done: progress.update(before + done, progress.total)


def evenly_spaced(images: ImageIndex, count: int) -> ImageIndex:
    """``count`` of the images, evenly spread; all of them if there are no more, or if it is negative."""
    if count < 0 or count >= len(images):
        return images
    chosen = np.linspace(0, len(images) - 1, count).round().astype(int)
    return ImageIndex(images.uris[chosen], images.ids[chosen])


def write_samples(config: Config, split: str, found: SplitInspection, folder: Folder) -> None:
    """Write a picture of samples of a split; only those to train on are augmented."""
    from mipnet.training.trainer import make_schedule
    from mipnet.visualization.overlays import encode_jpeg
    from mipnet.visualization.training_crops import training_grid

    people = found.file.people()
    if split != config.data.train:
        config = replace(config, augment=NOT_AUGMENTED)
    grid = training_grid(people, make_schedule(config, people), crop_settings(config), config.target)
    if grid is not None:
        folder.write(f"{split}.jpg", encode_jpeg(grid))


def dataset_report(config: Config, data: Folder, splits: Mapping[str, SplitInspection]) -> list[str]:
    """The lines of the report: a table with a column for each split, then examples of what is wrong."""
    joints = config.data.joints
    crop = f"{config.input.width}x{config.input.height}"
    lines = [f"{data.uri}", f"{joints.name}, {joints.num_joints} joints; crops {crop} (width x height)", ""]
    lines += statistics_table(splits)
    notes = [f"mended: {note}" for found in splits.values() for note in found.file.fixes]
    for split, found in splits.items():
        notes += [f"{split}, left out: {line}" for line in found.left_out]
        notes += [f"{split}, look at this: {line}" for line in found.file.oddities.lines()]
        if found.pixels:
            notes += example_line(f"{split}, cannot be read", found.pixels.unreadable)
            notes += example_line(f"{split}, not of the size that is stated", found.pixels.resized)
            twice = map(" = ".join, found.pixels.duplicates())
            notes += example_line(f"{split}, the same picture twice", twice)
    notes += leakage_lines(splits)
    notes = [note.replace(f"{data.uri.rstrip('/')}/", "") for note in notes]
    return [*lines, *([""] if notes else []), *notes]


def statistics_table(splits: Mapping[str, SplitInspection]) -> list[str]:
    """SplitStatistics with a column for each split."""

    def share(value: float) -> str:
        return f"{100 * value:.1f} %"

    def index(value: float) -> str:
        return "-" if np.isnan(value) else f"{value:.2f}"

    rows: dict[str, Callable[[SplitStatistics], str]] = {
        "images": lambda s: f"{s.images:,}",
        "  with people to learn from": lambda s: f"{s.people_images:,}",
        "people with labelled joints": lambda s: f"{s.people:,}",
        "  joints of a person, mean": lambda s: f"{s.mean_keypoints:.1f}",
        "  people in an image, mean": lambda s: f"{s.mean_people_per_image:.2f}",
        "  people in an image, most": lambda s: f"{s.max_people_per_image}",
        "neighbour above IoU 0.1": lambda s: share(s.near),
        "neighbour above IoU 0.5": lambda s: share(s.close),
        "crops with a second person": lambda s: share(s.second_person),
        "crowd index, mean": lambda s: index(s.crowd_index),
        "  as the file states it": lambda s: index(s.stated_crowd_index),
        "boxes beyond their image": lambda s: f"{s.boxes_outside_image:,}",
        "people with joints beyond it": lambda s: f"{s.keypoints_outside_image:,}",
        "  most joints outside the box": lambda s: f"{s.keypoints_outside_box:,}",
    }
    seen: dict[str, Callable[[ImageInspection], Sized]] = {
        "images read": lambda p: p.names,
        "  missing or corrupt": lambda p: p.unreadable,
        "  not of the stated size": lambda p: p.resized,
        "  the same picture twice": lambda p: p.duplicates(),
    }
    cells = [[name, *(get(split.statistics) for split in splits.values())] for name, get in rows.items()]
    cells += [
        [name, *(f"{len(get(split.pixels)):,}" if split.pixels else "-" for split in splits.values())]
        for name, get in seen.items()
    ]
    known = [row for row in cells if any(cell != "-" for cell in row[1:])]
    return aligned([["", *splits], *known], 1)


def leakage_lines(splits: Mapping[str, SplitInspection]) -> list[str]:
    """A line about the images of one split that are in another as well, under any name."""
    notes: list[str] = []
    for (ours, mine), (theirs, others) in combinations(splits.items(), 2):
        if mine.pixels and others.pixels:
            same = mine.pixels.duplicates_in(others.pixels)
            notes += example_line(f"leakage: in {ours} and in {theirs}", map(" = ".join, same))
    return notes


def example_line(what: str, names: Iterable[str]) -> list[str]:
    """A line with the number of images and the first of them; none without any."""
    found = list(names)
    return [f"{what}: {len(found)} ({first_few(found)})"] if found else []
