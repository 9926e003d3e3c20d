"""The data sets of a run: what identifies them, and what each is for."""

from __future__ import annotations

import hashlib
import json

from mipnet.config.schema import DataConfig
from mipnet.data.dataset_formats import open_split
from mipnet.storage import Folder
from mipnet.tracking.datasets import dataset_inputs, describe_datasets


def test_the_digest_is_of_the_annotations_and_the_counts_are_of_people(small_coco: Folder) -> None:
    data = DataConfig(train="train", val="other", evaluate=("another",))
    (found,) = describe_datasets(data, small_coco, {"train": open_split(data, small_coco, "train")})
    content = small_coco.read("annotations/person_keypoints_train.json")
    assert found["digest"] == hashlib.sha256(content).hexdigest()[:12]
    assert found["name"] == small_coco.uri.rpartition("/")[2] + "/train"
    assert found["source_type"] == "local"
    assert json.loads(found["source"]) == {"uri": small_coco.path("annotations/person_keypoints_train.json")}
    assert json.loads(found["profile"]) == {"people": 30, "images": 12}
    assert found["context"] == "training"


def test_the_name_has_no_parameters_of_an_object_store(small_coco: Folder) -> None:
    data = DataConfig(train="train", val="other", evaluate=("another",))
    files = {"train": open_split(data, small_coco, "train")}
    (found,) = describe_datasets(data, Folder("s3://bucket/crowd?region=eu&scheme=http"), files)
    assert found["name"] == "crowd/train"


def test_a_split_of_several_uses_names_them_all(small_coco: Folder) -> None:
    """MLflow would keep only the first of them."""
    data = DataConfig(train="train", val="train", evaluate=("train",))
    found = describe_datasets(data, small_coco, {"train": open_split(data, small_coco, "train")})
    assert [d["context"] for d in found] == ["training, validation, evaluation"]
    (entity,) = dataset_inputs(found)
    assert entity.dataset.digest == found[0]["digest"]
    assert entity.tags[0].value == found[0]["context"]
    json.dumps(found)  # what waits for a server is kept as JSON
