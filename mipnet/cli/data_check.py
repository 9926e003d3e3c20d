"""``mipnet data check``: what a data set holds, what is wrong with it, and whether a training would start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from mipnet.config import Config, from_dict
from mipnet.config.flags import option, parse
from mipnet.config.presets import DATASETS, dataset
from mipnet.config.schema import AugmentConfig
from mipnet.console import say
from mipnet.data.annotation_statistics import Statistics, statistics_of
from mipnet.data.coco import CocoFile, Images
from mipnet.data.crops import crop_settings
from mipnet.data.dataset_formats import open_split
from mipnet.data.image_inspection import Pixels, look_at
from mipnet.data.validation import check_readable
from mipnet.errors import UserError, first_few
from mipnet.experiment.common import CONFIG_HELP, STORAGE_HELP, chosen_base, output_folder
from mipnet.experiment.preflight import check_split, split_sources
from mipnet.experiment.progress import Progress
from mipnet.formats import aligned
from mipnet.storage import Folder, storage_named

NOT_AUGMENTED = AugmentConfig(flip=0, scale=0, rotation_probability=0, shift=0, half_body=0, colour=0)


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet data check``."""

    preset: str = option("tiny", "what is to be trained: its data set, crops and augmentation")
    config: str = option("", CONFIG_HELP)
    dataset: str = option("", f"a data set as downloaded, --data says where: {', '.join(DATASETS)}")
    images: int = option(-1, "read so many images of each split, evenly spread; -1 reads all, 0 none")
    pictures: str = option(
        "", "folder for pictures of samples as the network gets them: crop, joints, targets"
    )
    storage: str = option("", STORAGE_HELP)


@dataclass
class Split:
    """What was found out about one split."""

    file: CocoFile
    statistics: Statistics
    left_out: list[str] = field(default_factory=list)
    problem: str = ""
    pixels: Pixels | None = None


def main(command: str, argv: Sequence[str]) -> int:
    """Report on all splits that a training would use; exit status 2 if it would stop."""
    base = chosen_base(argv)
    sections = ["data", "input", "target", "augment", "model.instances"]
    options, settings = parse(
        command, "Read a data set as training would, and report.", Options, sections, base, argv
    )
    if options.dataset:
        base = replace(base, data=dataset(options.dataset))
    config = from_dict(settings, base)
    data = folder_of(config, options.storage)
    pictures = output_folder(options.pictures) if options.pictures else None

    problems: list[str] = []
    splits = read_splits(config, data, problems)
    if options.images:
        read_pixels(config, splits, options.images, problems)
    say("\n".join(report(config, data, splits)))
    if pictures:
        for split, found in splits.items():
            draw(config, split, found, pictures)
        say(f"\npictures: {options.pictures}")
    say()
    for problem in problems:
        say(f"training would stop: {problem}")
    if not problems:
        say("ready to train")
    return 2 if problems else 0


def folder_of(config: Config, storage: str) -> Folder:
    """Where the data set lies.

    Raises:
        UserError: it is not there.
    """
    if not config.data.generated:
        folder = Folder.of(config.data.root)
        if not folder.exists():
            raise UserError(f"the data set's folder {folder.uri} does not exist", "check --data (data.root)")
        return folder
    from mipnet.synthetic.generate import MANIFEST, benchmark_name

    home = storage_named(storage)
    folder = home.join(f"data/{benchmark_name(config.scenes)}")
    if not folder.exists(MANIFEST):
        raise UserError(
            f"the benchmark is not in {home.uri} yet", "mipnet data generate renders it, or give --data"
        )
    return folder


def read_splits(config: Config, data: Folder, problems: list[str]) -> dict[str, Split]:
    """Open and count every split; what would stop a training goes to ``problems``."""
    splits: dict[str, Split] = {}
    for split, sources in split_sources(config.data, training=True).items():
        try:
            file = open_split(config.data, data, split)
            found = Split(file, statistics_of(file, config.input.size, config.input.padding))
        except UserError as error:
            problems.append(str(error))
            continue
        splits[split] = found
        try:
            found.left_out = check_split(config, data, split, file, sources)
        except UserError as error:
            found.problem = str(error)
            problems.append(found.problem)
    return splits


def read_pixels(config: Config, splits: Mapping[str, Split], count: int, problems: list[str]) -> None:
    """Decode images of every split: all, or so many evenly spread."""
    chosen_images = {split: spread(found.file.images(), count) for split, found in splits.items()}
    with Progress("reading", "image", total=sum(map(len, chosen_images.values()))) as progress:
        before = 0
        for split, images in chosen_images.items():
            infos = [splits[split].file.coco.imgs[i] for i in images.ids.tolist()]
            sizes = [(info["width"], info["height"]) for info in infos]
            seen = look_at(images, sizes, counter(progress, before))
            splits[split].pixels = seen
            before += len(images)
            if splits[split].problem:
                continue
            try:
                check_readable(seen.unreadable, len(images), config.data.max_bad_share)
            except UserError as error:
                problems.append(f"{split}: {error}")


def counter(progress: Progress, before: int) -> Callable[[int], None]:
    """Tells the progress of all splits from that of one."""
    return lambda done: progress.update(before + done, progress.total)


def spread(images: Images, count: int) -> Images:
    """``count`` of the images, evenly spread; all of them if there are no more, or if it is negative."""
    if count < 0 or count >= len(images):
        return images
    chosen_ones = np.linspace(0, len(images) - 1, count).round().astype(int)
    return Images(images.uris[chosen_ones], images.ids[chosen_ones])


def report(config: Config, data: Folder, splits: Mapping[str, Split]) -> list[str]:
    """One screen: a column for each split, then what deserves names."""
    joints = config.data.joints
    crop = f"{config.input.width}x{config.input.height}"
    lines = [f"{data.uri}", f"{joints.name}, {joints.num_joints} joints; crops {crop} (width x height)", ""]
    lines += table(splits)
    notes = [f"mended: {note}" for found in splits.values() for note in found.file.notes]
    for split, found in splits.items():
        notes += [f"{split}, left out: {line}" for line in found.left_out]
        if found.pixels:
            notes += named(f"{split}, cannot be read", found.pixels.unreadable)
            notes += named(f"{split}, not of the size that is stated", found.pixels.resized)
            notes += named(f"{split}, the same picture twice", map(" = ".join, found.pixels.repeated()))
    notes += leakage(splits)
    notes = [note.replace(f"{data.uri.rstrip('/')}/", "") for note in notes]
    return [*lines, *([""] if notes else []), *notes]


def table(splits: Mapping[str, Split]) -> list[str]:
    """The figures, a column for each split."""

    def share(value: float) -> str:
        return f"{100 * value:.1f} %"

    def index(value: float) -> str:
        return "-" if np.isnan(value) else f"{value:.2f}"

    rows: dict[str, Callable[[Statistics], str]] = {
        "images": lambda s: f"{s.images:,}",
        "  with people to learn from": lambda s: f"{s.people_images:,}",
        "people with labelled joints": lambda s: f"{s.people:,}",
        "  joints of a person, mean": lambda s: f"{s.joints:.1f}",
        "  people in an image, mean": lambda s: f"{s.mean_people:.2f}",
        "  people in an image, most": lambda s: f"{s.most_people}",
        "neighbour above IoU 0.1": lambda s: share(s.near),
        "neighbour above IoU 0.5": lambda s: share(s.close),
        "crops with a second person": lambda s: share(s.second),
        "crowd index, mean": lambda s: index(s.crowd_index),
        "  as the file states it": lambda s: index(s.stated),
        "boxes beyond their image": lambda s: f"{s.boxes_beyond:,}",
        "people with joints beyond it": lambda s: f"{s.joints_beyond:,}",
        "  most joints outside the box": lambda s: f"{s.joints_off:,}",
        "  annotated twice": lambda s: f"{s.twice:,}",
    }
    seen: dict[str, Callable[[Pixels], Sized]] = {
        "images read": lambda p: p.names,
        "  missing or corrupt": lambda p: p.unreadable,
        "  not of the stated size": lambda p: p.resized,
        "  the same picture twice": lambda p: p.repeated(),
    }
    cells = [[name, *(tell(split.statistics) for split in splits.values())] for name, tell in rows.items()]
    cells += [
        [name, *(f"{len(tell(split.pixels)):,}" if split.pixels else "-" for split in splits.values())]
        for name, tell in seen.items()
    ]
    told = [row for row in cells if any(cell != "-" for cell in row[1:])]
    return aligned([["", *splits], *told], 1)


def leakage(splits: Mapping[str, Split]) -> list[str]:
    """Images of one split that are in another as well, whatever they are called."""
    notes: list[str] = []
    for (ours, mine), (theirs, others) in combinations(splits.items(), 2):
        if mine.pixels and others.pixels:
            alike = mine.pixels.shared_with(others.pixels)
            notes += named(f"leakage: in {ours} and in {theirs}", map(" = ".join, alike))
    return notes


def named(what: str, names: Iterable[str]) -> list[str]:
    """A line about a fault, with the first that have it; none without any."""
    found = list(names)
    return [f"{what}: {len(found)} ({first_few(found)})"] if found else []


def draw(config: Config, split: str, found: Split, folder: Folder) -> None:
    """A sheet of samples of a split; only those to train on are augmented."""
    from mipnet.training.trainer import make_plan
    from mipnet.visualization.overlays import encode_jpeg
    from mipnet.visualization.training_crops import training_grid

    people, _ = found.file.people()
    if split != config.data.train:
        config = replace(config, augment=NOT_AUGMENTED)
    grid = training_grid(people, make_plan(config, people), crop_settings(config), config.target)
    if grid is not None:
        folder.write(f"{split}.jpg", encode_jpeg(grid))
