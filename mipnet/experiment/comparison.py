"""Evaluates registered versions on the same data; the metrics are kept with each version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from mipnet import __version__
from mipnet.config import Config, from_dict
from mipnet.console import say
from mipnet.data.dataset_formats import load_boxes
from mipnet.evaluation.predicted_poses import score_splits
from mipnet.evaluation.result_rows import flat_metrics
from mipnet.experiment import datasets
from mipnet.experiment.arguments import checked_model
from mipnet.experiment.model_evaluation import predict_all
from mipnet.experiment.preflight import check_data, connected
from mipnet.registry.judge import Judgement, comparison_table, judge
from mipnet.registry.store import Registry, model_uri, version_number
from mipnet.storage import Folder
from mipnet.tracking.datasets import describe_datasets

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from mipnet.data.coco import CocoKeypointFile

DIGEST_LENGTH = 12


def compare_versions(
    registry: Registry,
    versions: Sequence[ModelVersion],
    settings: Mapping[str, Any],
    *,
    dataset: str = "",
    tolerance: float | None = None,
    verbose: bool = False,
) -> tuple[Judgement, str]:
    """Evaluate versions on the same data; kept metrics of the same data and settings are reused.

    Args:
        registry: of the versions.
        versions: the champion and the candidate, or the candidate alone. The last one's configuration names
            the data, unless ``dataset`` and ``settings`` do.
        settings: from flags; those of the evaluation hold for both, else each has its own.
        dataset: one of the ``DATASETS``, or "".
        tolerance: AP points by which either figure may fall; None is ``judge``'s default.
        verbose: show Ray's own messages.

    Returns:
        whether the candidate may replace the champion, and a text with the metrics of both.

    Raises:
        UserError: a model or the data cannot be used, or the two predict different keypoints.
    """
    models = [checked_model(model_uri(version), registry.storage) for version in versions]
    config = datasets.config_on_dataset(dataset, settings, models[-1][1])
    contenders = [
        (version, model, config_on_same_data(trained, config, settings, version))
        for version, (model, trained) in zip(versions, models, strict=True)
    ]
    metrics, annotations = evaluate_versions(registry, contenders, verbose)
    before = metrics[0] if len(metrics) > 1 else None
    judgement = judge(config.data, metrics[-1], before, annotations, tolerance)
    names = [" ".join([str(version.version), *version.aliases]) for version in versions]
    return judgement, "\n".join([comparison_table(config.data, names, metrics), "", *judgement.lines])


def config_on_same_data(
    trained: Config, config: Config, settings: Mapping[str, Any], version: ModelVersion
) -> Config:
    """A version's own configuration, but on the data of ``config``.

    Raises:
        ConfigError: it predicts other keypoints.
    """
    datasets.check_same_joints(f"version {version.version}", trained, config, "the two cannot be compared")
    chosen = {name: values for name, values in settings.items() if name != "data"}
    return from_dict(chosen, replace(trained, data=config.data, scenes=config.scenes))


def evaluate_versions(
    registry: Registry, contenders: Sequence[tuple[ModelVersion, Folder, Config]], verbose: bool
) -> tuple[list[dict[str, float]], dict[str, dict[str, Any]]]:
    """Metrics of each version, kept or computed, and the annotations of each split.

    Ray is only started if something has to be rendered or computed.

    Args:
        registry: of the versions.
        contenders: each version, its model's folder, and the configuration to evaluate it with.
        verbose: show Ray's own messages.
    """
    config, storage, corrupt = contenders[-1][2], registry.storage, datasets.CorruptImageLog()
    resources, metrics = None, []
    with ExitStack() as stack:
        if datasets.dataset_location(config, storage)[1]:
            resources = stack.enter_context(connected(config.resources, storage, verbose))
        data = datasets.ensure_dataset(config, storage, verbose)
        files = check_data(config, data, training=False, report_corrupt=corrupt)
        for version, model, own in contenders:
            key = evaluation_key(own, data, files)
            path = evaluation_path(version, key)
            if (kept := registry.load_dict(version, path)) is not None:
                say(f"version {version.version}: evaluated before, on the same data with the same settings")
                metrics.append(kept["metrics"])
                continue
            resources = resources or stack.enter_context(connected(config.resources, storage, verbose))
            from mipnet.ray_runtime.probes import probe_files

            say(f"version {version.version}: evaluating")
            probe_files([model.path("model.json"), *datasets.sample_image_uris(files)])
            placed = replace(own, resources=resources)
            poses = predict_all(model, placed, data, files, report_corrupt=corrupt, plain=verbose)
            metrics.append(flat_metrics(score_splits(poses, own, files)))
            found = {"version": version_number(version), **key, "metrics": metrics[-1]}
            registry.log_dict(version, path, found)
    return metrics, {split: file.annotations for split, file in files.items()}


def evaluation_key(config: Config, data: Folder, files: Mapping[str, CocoKeypointFile]) -> dict[str, Any]:
    """All that a version's metrics depend on, beside its weights and the pixels of the images."""
    boxes = {}
    for split, file in files.items():
        for source in config.data.boxes:
            found = load_boxes(file, data, split, source, config)
            content = b"".join(array.tobytes() for array in (found.image_index, found.boxes, found.scores))
            boxes[f"{split}/{source.partition('=')[0]}"] = hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH]
    evaluation = asdict(config.evaluation)
    del evaluation["batch_size"]
    return {
        "mipnet": __version__,
        "annotations": {d["name"]: d["digest"] for d in describe_datasets(config.data, data, files)},
        "boxes": boxes,
        "protocol": config.data.protocol,
        "evaluation": evaluation,
    }


def evaluation_path(version: ModelVersion, key: Mapping[str, Any]) -> str:
    """Name of the artifact of a version's run that keeps its metrics, by what they depend on."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:DIGEST_LENGTH]
    return f"evaluations/version-{version.version}-{digest}.json"
