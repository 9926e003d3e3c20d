"""``mipnet data check``: reads a data set as a training would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from mipnet.config import Config
from mipnet.config.schema import AugmentConfig
from mipnet.data.annotation_statistics import SplitStatistics, split_statistics
from mipnet.data.coco import CocoKeypointFile, ImageIndex
from mipnet.data.crops import crop_settings
from mipnet.data.dataset_formats import open_split
from mipnet.data.image_inspection import ImageInspection, inspect_images
from mipnet.data.validation import check_readable
from mipnet.errors import UserError
from mipnet.experiment.preflight import box_sources_by_split, check_split
from mipnet.experiment.progress import Progress
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
    from mipnet.synthetic.generate import MANIFEST, benchmark_name

    home = readable_storage(storage)
    folder = home.join(f"data/{benchmark_name(config.scenes)}")
    if not folder.exists(MANIFEST):
        raise UserError(
            f"the benchmark is not in {home.uri} yet", "mipnet data generate renders it, or give --data"
        )
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
            infos = [splits[split].file.coco.imgs[i] for i in images.ids.tolist()]
            sizes = [(info["width"], info["height"]) for info in infos]
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
