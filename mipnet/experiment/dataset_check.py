"""``mipnet data check``: reads a data set as a training would, and reports about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np

from mipnet.config import Config
from mipnet.config.schema import AugmentConfig
from mipnet.data.annotation_statistics import box_statistics, split_statistics
from mipnet.data.crops import crop_settings
from mipnet.data.dataset_formats import box_sources_by_split, load_boxes, open_split, split_location
from mipnet.data.image_index import ImageIndex
from mipnet.data.image_inspection import Columns, inspection_of, read_columns, read_columns_on_ray
from mipnet.data.shared_pictures import SHARED_PICTURES_HINT
from mipnet.data.validation import check_readable
from mipnet.errors import DataError, UserError, first_few
from mipnet.experiment.dataset_proposal import proposal_text, propose
from mipnet.experiment.dataset_survey import require_survey
from mipnet.experiment.dataset_verdicts import LOOK, SplitInspection, judge, skeleton_lines
from mipnet.experiment.datasets import dataset_location
from mipnet.experiment.preflight import check_evaluation, check_people, check_split
from mipnet.experiment.progress import Progress
from mipnet.formats import aligned
from mipnet.storage import Folder, readable_storage

NOT_AUGMENTED = AugmentConfig(flip=0, scale=0, rotation_probability=0, shift=0, half_body=0, colour=0)
FEW_IMAGES = 20_000
"""Up to so many are decoded by threads of this process. A Ray on this machine takes 20 s to start and end
(measured on two cores, where threads decode 11,000 images in that time)."""


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


def missing_split(config: Config, data: Folder) -> str:
    """Which split that a training would use is not where its format has it; "" if all are there."""
    try:
        for split in box_sources_by_split(config.data, training=True):
            split_location(config.data, data, split)
    except DataError as error:
        return error.what
    return ""


def proposed_settings(data: Folder, preset: str, missing: str) -> str:
    """YAML for ``--config``, from what lies in a data set's folder.

    Args:
        data: the folder.
        preset: to train with.
        missing: why the folder cannot be used as it is.

    Raises:
        DataError: no people to train on lie in it.
    """
    found = require_survey(data)
    return f"# {missing}\n# {data.uri} holds\n{proposal_text(found, propose(found, preset))}"


def inspect_split_annotations(
    config: Config, data: Folder, problems: list[str], pictures: bool = True
) -> dict[str, SplitInspection]:
    """Open every split; appends what would stop a training to ``problems``.

    Args:
        config: of the training.
        data: the data set's folder.
        problems: see above.
        pictures: whether to look for missing images; not needed where all are decoded afterwards.
    """
    splits: dict[str, SplitInspection] = {}
    for split, sources in box_sources_by_split(config.data, training=True).items():
        try:
            file = open_split(config.data, data, split)
            statistics = split_statistics(file, config.input.size, config.input.padding)
            splits[split] = found = SplitInspection(split, config, file, statistics)
            check_people(config, file)
            if pictures:
                check_split(config, data, split, file)
        except UserError as error:
            problems.append(str(error))
        if split in splits:
            inspect_boxes(found, data, sources, problems)
    return splits


def inspect_boxes(
    found: SplitInspection, data: Folder, sources: tuple[str, ...], problems: list[str]
) -> None:
    """Count the boxes of each source in which a split's poses are predicted; appends to ``problems``."""
    for source in sources:
        found.boxes[source] = None
        try:
            boxes = load_boxes(found.file, data, found.name, source, found.config)
        except UserError as error:
            problems.append(str(error))
            continue
        found.boxes[source] = box_statistics(found.file, boxes)
        found.notes += boxes.notes
    if sources:
        try:
            check_evaluation(found.config, found.file)
        except UserError as error:
            problems.append(str(error))


def inspect_split_images(
    config: Config, splits: Mapping[str, SplitInspection], count: int, problems: list[str]
) -> None:
    """Decode images of every split: all, or ``count`` evenly spread ones; appends to ``problems``."""
    chosen = {split: evenly_spaced(found.file.images(), count) for split, found in splits.items()}
    images = ImageIndex.concatenate(list(chosen.values()))
    keys = [f"{uri} {images.frame(i)}" for i, uri in enumerate(images.uris.tolist())]
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    columns = decode(config, images.where(first))
    begin = 0
    for split, images in chosen.items():
        rows = place[begin : begin + len(images)]
        begin += len(images)
        sizes = splits[split].file.columns.sizes_of(images.ids)
        own = {name: column[rows] for name, column in columns.items()}
        splits[split].pixels = inspection_of(images, sizes, own)
        try:
            folder = splits[split].file.images_uri
            check_readable(*splits[split].unreadable, config.data.max_bad_share, folder)
        except UserError as error:
            problems.append(f"{split}: {error}")


def decode(config: Config, images: ImageIndex) -> Columns:
    """Decode images: few in this process, many on all CPUs of Ray; the result is the same.

    Raises:
        UserError: no Ray can be used, or a node of it does not see the images.
    """
    with Progress("reading", "image", total=len(images)) as progress:

        def update(done: int) -> None:
            progress.update(done, len(images))

        if len(images) <= FEW_IMAGES:
            return read_columns(images, update)
        from mipnet.ray_runtime.probes import probe_files
        from mipnet.ray_runtime.session import connect

        with connect(replace(config.resources, workers=1, gpu=False)) as resources:
            probe_files([str(images.uris[0])])
            return read_columns_on_ray(images, update, resources.stream_workers)


def evenly_spaced(images: ImageIndex, count: int) -> ImageIndex:
    """``count`` of the images, evenly spread; all of them if there are no more, or if it is negative."""
    if count < 0 or count >= len(images):
        return images
    chosen = np.linspace(0, len(images) - 1, count).round().astype(int)
    return images.where(chosen)


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
    """The lines of the report: a table with a column for each split and one for the verdict, and a line for
    each thing to look at."""
    joints = config.data.joints
    crop = f"{config.input.width}x{config.input.height}"
    rows, notes = judge(splits)
    notes += [*skeleton_lines(joints), *leakage_lines(splits)]
    notes = [note.replace(f"{data.uri.rstrip('/')}/", "") for note in notes]
    return [
        f"{data.uri}",
        f"{joints.name}, {joints.num_joints} joints; crops {crop} (width x height)",
        "",
        *(aligned([["", *splits, "verdict"], *rows], 1) if splits else []),
        *([""] if notes else []),
        *notes,
    ]


def leakage_lines(splits: Mapping[str, SplitInspection]) -> list[str]:
    """A line about the images of one split that are in another as well, under any name."""
    notes = [
        f"{LOOK}: {split} is trained on and measured; label others to measure with: these are remembered"
        for split, found in splits.items()
        if found.trains and split in (found.config.data.val, *found.config.data.evaluate)
    ]
    for (ours, mine), (theirs, others) in combinations(splits.items(), 2):
        if mine.pixels and others.pixels and (same := mine.pixels.duplicates_in(others.pixels)):
            names = first_few([" = ".join(pair) for pair in same])
            what = f"leakage: in {ours} and in {theirs}: {len(same)} ({names})"
            notes.append(f"{LOOK}: {what}; {SHARED_PICTURES_HINT}")
    return notes
