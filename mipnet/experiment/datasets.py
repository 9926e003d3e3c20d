"""The data set that a configuration means: its folder, its annotations, its images and which are corrupt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mipnet.config import Config, from_dict
from mipnet.config.presets import dataset
from mipnet.console import say, say_once
from mipnet.errors import ConfigError, first_few, one_line
from mipnet.experiment.progress import Progress
from mipnet.storage import Folder

if TYPE_CHECKING:
    from mipnet.data.coco import CocoKeypointFile

CORRUPT_IMAGES_FILE = "unreadable.txt"
"""In a run's folder: names of the images that cannot be decoded, one a line."""


def dataset_location(config: Config, storage: Folder) -> tuple[Folder, bool]:
    """The data set's folder, and whether it is the generated benchmark and still has to be rendered."""
    if not config.data.generated:
        return Folder.of(config.data.root), False
    from mipnet.synthetic.generate import MANIFEST, benchmark_name

    folder = storage.join(f"data/{benchmark_name(config.scenes)}")
    return folder, not folder.exists(MANIFEST)


def ensure_dataset(config: Config, storage: Folder, plain: bool = False) -> Folder:
    """The data set's folder; the generated benchmark is rendered if it is not there. Rendering needs Ray."""
    folder, missing = dataset_location(config, storage)
    if missing:
        from mipnet.synthetic.generate import generate

        say(f"rendering the benchmark into {folder.uri}")
        with Progress("rendering", "scene", plain) as progress:
            generate(config.scenes, folder, progress.update)
    return folder


def open_splits(config: Config, data: Folder, splits: Sequence[str]) -> dict[str, CocoKeypointFile]:
    """The annotations of splits; says once what was corrected in them."""
    from mipnet.data.dataset_formats import open_split

    files = {split: open_split(config.data, data, split) for split in dict.fromkeys(splits)}
    for file in files.values():
        for note in file.fixes:
            say_once(f"warning: {note}")
    return files


def sample_image_uris(files: Mapping[str, CocoKeypointFile]) -> list[str]:
    """One image of each split, to check that other nodes can read it."""
    return [str(file.people().images.uris[0]) for file in files.values()]


def config_on_dataset(name: str, settings: Mapping[str, Any], trained: Config) -> Config:
    """The configuration to evaluate a model with.

    Args:
        name: of one of the ``DATASETS``, "" for the data that the model was trained on.
        settings: from flags; they win.
        trained: the model's own configuration.

    Raises:
        ConfigError: there is no data set of that name, or it has other keypoints than the model.
    """
    config = from_dict(settings, replace(trained, data=dataset(name)) if name else trained)
    check_same_joints("the model", trained, config, f"evaluate on data with {trained.data.joints.name}")
    return config


def check_same_joints(what: str, trained: Config, config: Config, hint: str) -> None:
    """Refuse to evaluate a network, which ``what`` names, on data with other keypoints."""
    mine, theirs = trained.data.joints, config.data.joints
    if mine != theirs:
        raise ConfigError(
            f"{what} predicts the {mine.num_joints} joints of {mine.name}, the data has the "
            f"{theirs.num_joints} of {theirs.name}",
            hint,
        )


class CorruptImageLog:
    """Reports corrupt images that it has not reported before.

    Args:
        folder: of the run, which keeps the names over restarts; None keeps nothing.
    """

    def __init__(self, folder: Folder | None = None) -> None:
        self.folder = folder
        self.names = read_corrupt_images(folder) if folder else []

    def __call__(self, names: Iterable[str]) -> None:
        new = sorted({*map(one_line, names)} - {*self.names})
        if not new:
            return
        self.names += new
        say(f"left out: {len(new)} x image that cannot be read: {first_few(new)}")
        if self.folder:
            self.folder.write(CORRUPT_IMAGES_FILE, "".join(f"{name}\n" for name in self.names))


def read_corrupt_images(folder: Folder) -> list[str]:
    """The names in a run's folder, in the order of their reports."""
    there = folder.exists(CORRUPT_IMAGES_FILE)
    return folder.read(CORRUPT_IMAGES_FILE).decode().splitlines() if there else []
