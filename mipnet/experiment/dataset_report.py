"""``mipnet data check``: the report about a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from itertools import combinations

import numpy as np

from mipnet.config import Config
from mipnet.data.annotation_statistics import SplitStatistics
from mipnet.data.image_inspection import ImageInspection
from mipnet.errors import first_few
from mipnet.experiment.dataset_inspection import SplitInspection
from mipnet.formats import aligned
from mipnet.storage import Folder


def dataset_report(config: Config, data: Folder, splits: Mapping[str, SplitInspection]) -> list[str]:
    """The lines of the report: a table with a column for each split, then examples of what is wrong."""
    joints = config.data.joints
    crop = f"{config.input.width}x{config.input.height}"
    lines = [f"{data.uri}", f"{joints.name}, {joints.num_joints} joints; crops {crop} (width x height)", ""]
    lines += statistics_table(splits)
    notes = [f"mended: {note}" for found in splits.values() for note in found.file.fixes]
    for split, found in splits.items():
        notes += [f"{split}, left out: {line}" for line in found.left_out]
        if found.pixels:
            notes += example_line(f"{split}, cannot be read", found.pixels.unreadable)
            notes += example_line(f"{split}, not of the size that is stated", found.pixels.resized)
            notes += example_line(
                f"{split}, the same picture twice", map(" = ".join, found.pixels.duplicates())
            )
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
        "  annotated twice": lambda s: f"{s.annotated_twice:,}",
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
