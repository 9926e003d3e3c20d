"""Two versions on the same data: each is evaluated once, and what it came to is kept with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from mipnet import __version__
from mipnet.cli.evaluate import on_dataset
from mipnet.cli.registry_options import ComparingOptions, tolerance_of
from mipnet.config import Config, from_dict
from mipnet.config.schema import ResourcesConfig
from mipnet.console import say
from mipnet.data.dataset_formats import boxes_of
from mipnet.errors import ConfigError
from mipnet.evaluation.result_rows import flat_metrics
from mipnet.experiment.common import data_folder, data_place, one_image_each, predict_all, usable_model
from mipnet.experiment.corrupt_images import Unreadable
from mipnet.experiment.preflight import check_data
from mipnet.registry.judge import Judgement, comparison_table, judge
from mipnet.registry.store import Registry, number_of, uri_of
from mipnet.storage import Folder
from mipnet.tracking.datasets import describe_datasets

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from mipnet.data.coco import CocoFile

KEY_LENGTH = 12


def compare_versions(
    registry: Registry,
    versions: Sequence[ModelVersion],
    options: ComparingOptions,
    settings: Mapping[str, Any],
) -> tuple[Judgement, str]:
    """Evaluate versions on the same data; what was evaluated before is not again.

    Args:
        registry: of the versions.
        versions: the champion and the candidate, or the candidate alone; its configuration says on which
            data, unless ``options.dataset`` and ``settings`` do.
        options: of the verb.
        settings: from flags; those of the evaluation hold for both, else each has its own.

    Returns:
        whether the candidate may replace the champion, and the table and figures that this rests on.

    Raises:
        UserError: a model or the data cannot be used, or the two do not predict the same joints.
    """
    tolerance = tolerance_of(options.tolerance)
    models = [usable_model(uri_of(version), registry.storage) for version in versions]
    config = on_dataset(options.dataset, settings, models[-1][1])
    contenders = [
        (version, model, same_data(trained, config, settings, version))
        for version, (model, trained) in zip(versions, models, strict=True)
    ]
    metrics, annotations = measure(registry, contenders, options.verbose)
    before = metrics[0] if len(metrics) > 1 else None
    judgement = judge(config.data, metrics[-1], before, annotations, tolerance)
    names = [" ".join([str(version.version), *version.aliases]) for version in versions]
    return judgement, "\n".join([comparison_table(config.data, names, metrics), "", *judgement.lines])


def same_data(trained: Config, config: Config, settings: Mapping[str, Any], version: ModelVersion) -> Config:
    """A version's own configuration, but on the data of ``config``.

    Raises:
        ConfigError: it predicts other joints.
    """
    mine, theirs = trained.data.joints, config.data.joints
    if mine != theirs:
        raise ConfigError(
            f"version {version.version} predicts the {mine.num_joints} joints of {mine.name}, the data has "
            f"the {theirs.num_joints} of {theirs.name}",
            "the two cannot be compared",
        )
    chosen = {name: values for name, values in settings.items() if name != "data"}
    return from_dict(chosen, replace(trained, data=config.data, scenes=config.scenes))


def measure(
    registry: Registry, contenders: Sequence[tuple[ModelVersion, Folder, Config]], verbose: bool
) -> tuple[list[dict[str, float]], dict[str, dict[str, Any]]]:
    """Metrics of each version, kept or computed, and the annotations of each split.

    Ray is only started if something has to be rendered or computed.

    Args:
        registry: of the versions.
        contenders: each version, its network's folder, and how to evaluate it.
        verbose: show Ray's own messages.
    """
    config, storage, unreadable = contenders[-1][2], registry.storage, Unreadable()
    resources, found = None, []
    with ExitStack() as stack:
        if data_place(config, storage)[1]:
            resources = stack.enter_context(ray_session(config, storage, verbose))
        data = data_folder(config, storage, verbose)
        files = check_data(config, data, training=False, unreadable=unreadable)
        for version, model, own in contenders:
            about = identity(own, data, files)
            path = evaluation_path(version, about)
            kept = registry.kept(version, path)
            if kept is not None:
                say(f"version {version.version}: evaluated before, on the same data with the same settings")
                found.append(kept["metrics"])
                continue
            resources = resources or stack.enter_context(ray_session(config, storage, verbose))
            from mipnet.evaluation.scoring import score_splits  # Ray, which is quiet by now
            from mipnet.ray_runtime.session import probe_files

            say(f"version {version.version}: evaluating")
            probe_files([model.path("model.json"), *one_image_each(files)])
            poses = predict_all(model, replace(own, resources=resources), data, files, unreadable, verbose)
            found.append(flat_metrics(score_splits(poses, own, files)))
            registry.keep(version, path, {"version": number_of(version), **about, "metrics": found[-1]})
    return found, {split: file.annotations for split, file in files.items()}


@contextmanager
def ray_session(config: Config, storage: Folder, verbose: bool) -> Iterator[ResourcesConfig]:
    """Ray, with what it can give, where every node can use the storage."""
    from mipnet.ray_runtime.session import connect, probe_storage, quieten

    quieten(verbose)
    with connect(config.resources, verbose) as resources:
        probe_storage(storage)
        yield resources


def identity(config: Config, data: Folder, files: Mapping[str, CocoFile]) -> dict[str, Any]:
    """What a version's metrics depend on beside its weights; of the pictures only which they are."""
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


def evaluation_path(version: ModelVersion, about: Mapping[str, Any]) -> str:
    """Where among the artifacts of a version's run its metrics are kept, by what they depend on."""
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]
    return f"evaluations/version-{version.version}-{key}.json"
