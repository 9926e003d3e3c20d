"""The data sets that go into a run, as MLflow shows them: name, digest, where they lie, what they are for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mipnet.data.coco import CocoFile, read_uri

if TYPE_CHECKING:
    from mipnet.config.schema import DataConfig
    from mipnet.storage import Folder

CONTEXT = "mlflow.data.context"
DIGEST_LENGTH = 12  # hex digits; MLflow takes 36 at most
COLUMNS = (("image", "string"), ("bbox", "double"), ("keypoints", "double"))
SCHEMA = json.dumps({"mlflow_colspec": [{"name": name, "type": kind} for name, kind in COLUMNS]})
"""What a row of a data set is, one person: two of the columns hold a list."""


def describe_datasets(
    data: DataConfig, folder: Folder, files: Mapping[str, CocoFile]
) -> list[dict[str, str]]:
    """What to tell MLflow about the splits of a data set, as plain text that can wait in a file.

    Args:
        data: says what each split is for.
        folder: of the data set; its last part and the split are the name.
        files: split -> its annotations.

    Returns:
        for each split name, digest (of the annotation file's content), source_type, source, schema, profile
        and context: training, validation, evaluation, or several of them: MLflow takes a data set once a run.
    """
    uses = {"training": (data.train,), "validation": (data.tune,), "evaluation": data.evaluate}
    root = folder.uri.rstrip("/").rpartition("/")[2]
    found = []
    for split, file in files.items():
        people = [
            a for a in file.annotations["annotations"] if not a.get("iscrowd") and a.get("num_keypoints", 1)
        ]
        size = {"people": len(people), "images": len(file.annotations["images"])}
        found.append(
            {
                "name": f"{root}/{split}",
                "digest": hashlib.sha256(read_uri(file.path)).hexdigest()[:DIGEST_LENGTH],
                "source_type": file.path.partition("://")[0] if "://" in file.path else "local",
                "source": json.dumps({"uri": file.path}),
                "schema": SCHEMA,
                "profile": json.dumps(size),
                "context": ", ".join(use for use, splits in uses.items() if split in splits),
            }
        )
    return found


def dataset_inputs(datasets: Sequence[Mapping[str, str]]) -> list[Any]:
    """MLflow's entities for what ``describe_datasets`` says."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(**{name: value for name, value in dataset.items() if name != "context"}),
            [InputTag(CONTEXT, dataset["context"])],
        )
        for dataset in datasets
    ]
