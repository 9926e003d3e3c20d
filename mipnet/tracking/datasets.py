"""A run's data sets as MLflow's dataset inputs: name, digest, source, context (training, …)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mipnet.data.coco import CocoKeypointFile
from mipnet.storage import plain_uri, split_uri

if TYPE_CHECKING:
    from mipnet.config.schema import DataConfig
    from mipnet.storage import Folder

CONTEXT_TAG = "mlflow.data.context"
DIGEST_LENGTH = 12  # hex digits; MLflow's limit is 36
ROW_COLUMNS = (("image", "string"), ("bbox", "double"), ("keypoints", "double"))
ROW_SCHEMA = json.dumps({"mlflow_colspec": [{"name": name, "type": kind} for name, kind in ROW_COLUMNS]})
"""Schema of a row, one person; bbox and keypoints hold lists."""


def describe_datasets(
    data: DataConfig, folder: Folder, files: Mapping[str, CocoKeypointFile]
) -> list[dict[str, str]]:
    """Describe the splits of a data set for MLflow, as strings that can be spooled as JSON.

    Args:
        data: says which split is for training, validation and evaluation.
        folder: of the data set; the name is its last part and the split.
        files: split -> its annotations.

    Returns:
        for each split: name, digest (of the annotation file's content), source_type, source, schema, profile
        and context: training, validation, evaluation, or several of them, because MLflow takes a data set
        only once per run.
    """
    uses = {"training": (data.train,), "validation": (data.val,), "evaluation": data.evaluate}
    _, root = split_uri(folder.uri)
    found = []
    for split, file in files.items():
        size = {"people": file.num_measured, "images": len(file.images())}
        found.append(
            {
                "name": f"{root}/{split}",
                "digest": file.sha256[:DIGEST_LENGTH],
                "source_type": file.path.partition("://")[0] if "://" in file.path else "local",
                "source": json.dumps({"uri": plain_uri(file.path)}),
                "schema": ROW_SCHEMA,
                "profile": json.dumps(size),
                "context": ", ".join(use for use, splits in uses.items() if split in splits),
            }
        )
    return found


def dataset_inputs(datasets: Sequence[Mapping[str, str]]) -> list[Any]:
    """MLflow's ``DatasetInput`` entities of what ``describe_datasets`` returns."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for dataset in datasets:
        fields = {name: value for name, value in dataset.items() if name != "context"}
        inputs.append(DatasetInput(Dataset(**fields), [InputTag(CONTEXT_TAG, dataset["context"])]))
    return inputs
