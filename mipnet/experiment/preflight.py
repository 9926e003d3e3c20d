"""What can be known to go wrong with a data set is said before a cluster is touched, not hours later."""

from __future__ import annotations

from collections.abc import Callable

from mipnet.config import Config
from mipnet.config.schema import DataConfig
from mipnet.console import say
from mipnet.data.coco import CocoFile, absent
from mipnet.data.dataset_formats import boxes_of
from mipnet.data.validation import check_readable
from mipnet.errors import DataError
from mipnet.evaluation.protocols import evaluate_poses
from mipnet.experiment.common import open_splits
from mipnet.storage import Folder


def check_data(
    config: Config,
    data: Folder,
    training: bool = True,
    unreadable: Callable[[list[str]], object] = lambda names: None,
) -> dict[str, CocoFile]:
    """Open the splits that a command uses, and try all that it will do with them but look at pixels.

    Says what was mended and what is left out.

    Args:
        config: what is to be done.
        data: the data set's folder.
        training: whether a network is to be trained; its final evaluation is checked in any case.
        unreadable: told which images are missing.

    Returns:
        split -> its annotations, so that nobody reads them again.

    Raises:
        DataError: something is missing or broken, or more than ``data.max_bad_share`` is.
    """
    wanted = config.data
    if not data.exists():
        raise DataError(f"the data set's folder {data.uri} does not exist", "check --data (data.root)")
    sources = split_sources(wanted, training)
    files = open_splits(config, data, list(sources))
    for split, file in files.items():
        for line in check_split(config, data, split, file, sources[split], unreadable):
            say(f"left out: {line} (in {file.path})")
    return files


def split_sources(data: DataConfig, training: bool) -> dict[str, tuple[str, ...]]:
    """The splits that a command uses -> the box sources that poses are predicted in there."""
    sources = dict.fromkeys(data.evaluate, data.boxes)
    return {data.train: (), data.tune: data.boxes[-1:], **sources} if training else sources


def check_split(
    config: Config,
    data: Folder,
    split: str,
    file: CocoFile,
    sources: tuple[str, ...],
    unreadable: Callable[[list[str]], object] = lambda names: None,
) -> list[str]:
    """Try all that will be done with a split, but for its pixels.

    Args:
        config, data, split, file: which.
        sources: of the boxes that poses are predicted in.
        unreadable: told which images are missing.

    Returns:
        a line about each kind of person that is left out.

    Raises:
        DataError: as ``check_data``.
    """
    people, complaints = file.people()
    complaints.check(len(people) + complaints.total, config.data.max_bad_share, file.path)
    gone = absent(people.images)
    check_readable(gone, len(people.images), config.data.max_bad_share)
    unreadable(gone)
    if sources:
        check_evaluation(config, data, split, file, sources)
    return complaints.lines()


def check_evaluation(
    config: Config, data: Folder, split: str, file: CocoFile, sources: tuple[str, ...]
) -> None:
    """Read the boxes of all sources, and evaluate no poses at all.

    Raises:
        DataError: boxes or annotations that the evaluation would refuse.
    """
    for source in sources:
        boxes_of(file, data, split, source, config)
    try:
        evaluate_poses(config.data.protocol, file.annotations, [], config.data.joints.sigmas)
    except DataError as error:
        raise DataError(f"{file.path}: {error.what}", error.mend or "mend the annotations") from None
