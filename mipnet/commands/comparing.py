"""Versions of the registry on the same data: each is evaluated once, and what it came to is kept with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mipnet import __version__
from mipnet.commands.common import STORAGE_HELP, data_folder, data_place, one_image_each, usable_model
from mipnet.commands.evaluate import on_dataset
from mipnet.commands.progress import Progress
from mipnet.commands.unreadable import Unreadable
from mipnet.config import Config, from_dict
from mipnet.config.flags import option, say
from mipnet.config.presets import DATASETS
from mipnet.errors import ConfigError
from mipnet.evaluation.promotion import Judgement, comparison_table, judge
from mipnet.storage import Folder
from mipnet.tracking.versions import Registry, Version

if TYPE_CHECKING:
    from mipnet.data.records import CocoFile

SECTIONS = ("data", "evaluation", "resources")
"""Of the configuration, for those commands that evaluate."""
KEY_LENGTH = 12

TOLERANCE_HELP = (
    "AP points by which the occlusion AP or the easy AP may fall. By default what two seeds of one training "
    "differ by: 1.0 on 900 people (measured with seeds 0 and 1 of preset tiny and of its baseline: 0.6, 0.6, "
    "0.8 and 1.3 on hard, 1.6 on easy), shrinking with the root of their number, and never below 0.25 (the "
    "paper's spread over runs on COCO, 0.16 to 0.19, times the root of 2)"
)


@dataclass(frozen=True)
class ComparingOptions:
    """Flags of the commands that compare; their own come on top."""

    dataset: str = option("", f"a data set as downloaded, --data says where: {', '.join(DATASETS)}")
    tolerance: str = option("", TOLERANCE_HELP)
    name: str = option("mipnet", "name of the registered model")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, "show Ray's own messages")


@dataclass(frozen=True)
class Compared:
    """What two versions came to on the same data.

    Attributes:
        judgement: whether the second may replace the first.
        text: the table and both figures, for people.
        values: the same for programs.
    """

    judgement: Judgement
    text: str
    values: dict[str, Any]


def tolerance_of(text: str) -> float | None:
    """What ``--tolerance`` says; None for the default.

    Raises:
        ConfigError: it is not a number that makes sense.
    """
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"--tolerance: {text!r} is not a number", "give AP points, e.g. 0.5") from None
    if not 0 <= value <= 100:
        raise ConfigError(f"--tolerance: {text} is not between 0 and 100", "give AP points, e.g. 0.5")
    return value


def compare_versions(
    registry: Registry,
    candidate: Version,
    champion: Version | None,
    dataset: str,
    settings: Mapping[str, Any],
    tolerance: float | None,
    verbose: bool = False,
) -> Compared:
    """Evaluate both on the candidate's data set, or another one; what was evaluated before is not again.

    Args:
        registry: of both.
        candidate: whose configuration says on which data, unless ``dataset`` and ``settings`` do.
        champion: None if there is none to compare with.
        dataset: as ``--dataset`` of ``mipnet evaluate``.
        settings: from flags; those of the evaluation hold for both, else each has its own.
        tolerance: as in ``judge``.
        verbose: show Ray's own messages.

    Raises:
        UserError: a model or the data cannot be used, or the two do not predict the same joints.
    """
    versions = [version for version in (champion, candidate) if version is not None]
    models = {v.number: usable_model(v.uri, registry.storage) for v in versions}
    config = on_dataset(dataset, settings, models[candidate.number][1])
    configs = {v.number: same_data(models[v.number][1], config, settings, v) for v in versions}
    configs[candidate.number] = config
    folders = {v.number: models[v.number][0] for v in versions}
    metrics, files = measure(registry, versions, folders, configs, verbose)

    before = metrics[champion.number] if champion else None
    annotations = {split: file.annotations for split, file in files.items()}
    judgement = judge(config.data, metrics[candidate.number], before, annotations, tolerance)
    measured = [metrics[v.number] for v in versions]
    table = comparison_table(config.data, [v.label for v in versions], measured)
    text = "\n".join([table, "", *judgement.lines])
    values = {
        "data": config.data.root,
        "splits": list(config.data.evaluate),
        "boxes": list(config.data.boxes),
        "figures": [asdict(figure) for figure in judgement.figures],
        "metrics": {str(v.number): metrics[v.number] for v in versions},
    }
    return Compared(judgement, text, values)


def same_data(trained: Config, config: Config, settings: Mapping[str, Any], version: Version) -> Config:
    """A version's own configuration, but on the data of ``config``.

    Raises:
        ConfigError: it predicts other joints.
    """
    if trained.data.joints != config.data.joints:
        raise ConfigError(
            f"version {version.number} predicts the {trained.data.joints.num_joints} joints of "
            f"{trained.data.joints.name}, the data has the {config.data.joints.num_joints} of "
            f"{config.data.joints.name}",
            "the two cannot be compared",
        )
    chosen = {name: values for name, values in settings.items() if name != "data"}
    return from_dict(chosen, replace(trained, data=config.data, scenes=config.scenes))


def measure(
    registry: Registry,
    versions: Sequence[Version],
    folders: Mapping[int, Folder],
    configs: Mapping[int, Config],
    verbose: bool,
) -> tuple[dict[int, dict[str, float]], dict[str, CocoFile]]:
    """Metrics of each version, kept or computed, and the annotations of the splits.

    Ray is only started if something has to be rendered or computed.
    """
    from mipnet.commands.checks import check_data

    config = configs[versions[-1].number]
    data, missing = data_place(config, registry.storage)
    unreadable = Unreadable()
    files: dict[str, CocoFile] = {}
    found: dict[int, dict[str, float]] = {}
    if not missing:
        files = check_data(config, data, training=False, unreadable=unreadable)
        found = kept(registry, versions, configs, data, files)
        if len(found) == len(versions):
            return found, files

    from mipnet.raysession import connect, probe_files, probe_storage, quieten

    quieten(verbose)
    from mipnet.inference.entries import flat_metrics
    from mipnet.inference.evaluate import predict_splits, score_splits

    with connect(config.resources, verbose) as resources:
        probe_storage(registry.storage)
        if missing:
            data = data_folder(config, registry.storage, verbose)
            files = check_data(config, data, training=False, unreadable=unreadable)
            found = kept(registry, versions, configs, data, files)
        for version in [v for v in versions if v.number not in found]:
            mine, model = configs[version.number], folders[version.number]
            probe_files([model.path("model.json"), *one_image_each(files)])
            with Progress(f"evaluating version {version.number}", "box", verbose) as progress:
                poses = predict_splits(
                    model, mine, data, files, mine.data.boxes, resources, progress.update, unreadable
                )
            found[version.number] = flat_metrics(score_splits(poses, mine, files))
            about = identity(mine, data, files)
            registry.keep_evaluation(version, key_of(about), about, found[version.number])
    return found, files


def kept(
    registry: Registry,
    versions: Sequence[Version],
    configs: Mapping[int, Config],
    data: Folder,
    files: Mapping[str, CocoFile],
) -> dict[int, dict[str, float]]:
    """Version -> metrics, of those that were evaluated so before."""
    found = {}
    for version in versions:
        metrics = registry.kept_evaluation(version, key_of(identity(configs[version.number], data, files)))
        if metrics is not None:
            say(f"version {version.number}: evaluated before, on the same data with the same settings")
            found[version.number] = metrics
    return found


def identity(config: Config, data: Folder, files: Mapping[str, CocoFile]) -> dict[str, Any]:
    """What a version's metrics depend on beside its weights; of the pictures only which they are."""
    from mipnet.data.layouts import boxes_of
    from mipnet.tracking.datasets import describe_datasets

    boxes = {}
    for split, file in files.items():
        for source in config.data.boxes:
            found = boxes_of(file, data, split, source, config)
            content = b"".join(array.tobytes() for array in (found.image, found.boxes, found.scores))
            boxes[f"{split}/{source.partition('=')[0]}"] = hashlib.sha256(content).hexdigest()[:KEY_LENGTH]
    reading = asdict(config.evaluation)
    del reading["batch_size"]
    return {
        "mipnet": __version__,
        "annotations": {d["name"]: d["digest"] for d in describe_datasets(config.data, data, files)},
        "boxes": boxes,
        "protocol": config.data.protocol,
        "evaluation": reading,
    }


def key_of(about: Mapping[str, Any]) -> str:
    """The digest under which an evaluation is kept."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]
