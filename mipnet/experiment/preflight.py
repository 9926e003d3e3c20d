"""Checks before the work begins: a broken data set or cluster is found at once, not hours later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

from mipnet.config import Config
from mipnet.config.schema import ResourcesConfig
from mipnet.console import say, say_once
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.dataset_formats import box_sources_by_split, load_boxes
from mipnet.data.image_index import missing_files
from mipnet.data.validation import check_readable
from mipnet.errors import DataError
from mipnet.evaluation.protocols import evaluate_poses
from mipnet.experiment.datasets import ensure_dataset, open_splits, sample_image_uris
from mipnet.storage import Folder

ReportCorrupt = Callable[[list[str]], object]
"""Takes the names of images that cannot be decoded."""
OpenFiles = Callable[[Folder], dict[str, CocoKeypointFile]]
"""Opens and checks the splits in a data set's folder."""


@dataclass(frozen=True)
class Prepared:
    """What a command works with after its preflight.

    Attributes:
        config: with ``resources.gpu`` resolved.
        data: the data set's folder.
        files: split -> annotations.
    """

    config: Config
    data: Folder
    files: dict[str, CocoKeypointFile]


@contextmanager
def connected(
    resources: ResourcesConfig, storage: Folder, verbose: bool, window_bytes: int = 0
) -> Iterator[ResourcesConfig]:
    """``connect``, after which every node is known to see the storage."""
    from mipnet.ray_runtime.probes import probe_storage
    from mipnet.ray_runtime.session import connect

    with connect(resources, verbose, window_bytes) as found:
        probe_storage(storage)
        yield found


@contextmanager
def prepared(
    config: Config,
    storage: Folder,
    open_files: OpenFiles,
    *,
    window_bytes: int = 0,
    model: Folder | None = None,
    before_ray: Callable[[], object] = lambda: None,
    while_rendering: Callable[[], AbstractContextManager[object]] = nullcontext,
    verbose: bool = False,
) -> Iterator[Prepared]:
    """Check the data set, connect to Ray, and check that every node sees storage, images and model.

    A data set that has to be rendered first is opened after that; all others before Ray is started.

    Args:
        config: of the command.
        storage: of data sets and runs.
        open_files: see ``check_data``; called once.
        window_bytes: of the crops of a shuffle window, 0 if nothing is streamed.
        model: folder of the model that the nodes load.
        before_ray: a last check, without Ray.
        while_rendering: a context, entered while the data set is looked up and rendered.
        verbose: show Ray's own messages.

    Raises:
        UserError: a check failed.
    """
    files = None if config.data.generated else open_files(Folder.of(config.data.root))
    from mipnet.ray_runtime.probes import probe_files
    from mipnet.ray_runtime.session import silence_ray

    silence_ray(verbose)
    before_ray()
    with connected(config.resources, storage, verbose, window_bytes) as resources:
        config = replace(config, resources=resources)
        with while_rendering():
            data = ensure_dataset(config, storage, verbose)
        files = open_files(data) if files is None else files
        probe_files([*([model.path("model.json")] if model else []), *sample_image_uris(files)])
        yield Prepared(config, data, files)


def check_data(
    config: Config,
    data: Folder,
    *,
    training: bool = True,
    report_corrupt: ReportCorrupt = lambda names: None,
) -> dict[str, CocoKeypointFile]:
    """Open the splits that a command uses and check all that it will do with them, except decoding images.

    Says what was corrected and what is left out.

    Args:
        config: of the command.
        data: the data set's folder.
        training: check the splits of a training, too, not only those of its final evaluation.
        report_corrupt: called with the names of missing images.

    Returns:
        split -> its annotations.

    Raises:
        DataError: something is missing or broken, or more than ``data.max_bad_share`` is.
    """
    wanted = config.data
    if not data.exists():
        raise DataError(f"the data set's folder {data.uri} does not exist", "check --data (data.root)")
    sources = box_sources_by_split(wanted, training)
    files = open_splits(config, data, list(sources))
    for split, file in files.items():
        boxes = sources[split]
        check_split(config, data, split, file, sources=boxes, report_corrupt=report_corrupt)
        for line in notices(file, mended=False):  # open_splits has said what was
            say(line)
    return files


def check_split(
    config: Config,
    data: Folder,
    split: str,
    file: CocoKeypointFile,
    *,
    sources: tuple[str, ...] = (),
    report_corrupt: ReportCorrupt = lambda names: None,
) -> None:
    """Check a split's annotations, whether its image files exist, its boxes, and that it can be evaluated.

    Args:
        config: of the command.
        data: the data set's folder.
        split: its name.
        file: its annotations.
        sources: of the boxes to predict poses in.
        report_corrupt: called with the names of missing images.

    Raises:
        DataError: as ``check_data``.
    """
    check_people(config, file)
    images = file.people().images
    missing = missing_files(images)
    check_readable(missing, len(images), config.data.max_bad_share, file.images_uri)
    report_corrupt(missing)
    file.orientations.check(config.data.max_bad_share)
    for source in sources:
        for note in load_boxes(file, data, split, source, config).notes:
            say_once(f"warning: {note}")
    if sources:
        check_evaluation(config, file)


def check_people(config: Config, file: CocoKeypointFile) -> None:
    """Check that a file has people of whom few enough are left out.

    Raises:
        DataError: there is nobody, or more than ``data.max_bad_share`` are left out.
    """
    people, left_out = file.people(), file.invalid_annotations
    left_out.check(len(people) + left_out.total, config.data.max_bad_share, file.path)


def check_evaluation(config: Config, file: CocoKeypointFile) -> None:
    """Check that a split can be evaluated, by evaluating no poses.

    Raises:
        DataError: it cannot.
    """
    try:
        evaluate_poses(config.data, file.annotations, [])
    except DataError as error:
        raise DataError(f"{file.path}: {error.what}", error.hint or "mend the annotations") from None


def notices(file: CocoKeypointFile, mended: bool = True) -> list[str]:
    """What stands beside the figures of a split: a line for each kind of thing that was mended in it (unless
    that is not wanted), left out of it, or is odd."""
    found = {"left out": file.invalid_annotations, "look at this": file.oddities}
    lines = [f"{what}: {line} (in {file.path})" for what, kinds in found.items() for line in kinds.lines()]
    return [*(f"mended: {fix}" for fix in file.fixes if mended), *lines]
