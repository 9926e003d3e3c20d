"""Prediction in shards: each image exactly once, however often the job is interrupted."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mipnet.config import Config, preset
from mipnet.data.coco import Boxes
from mipnet.data.image_index import ImageIndex
from mipnet.data.parquet import to_parquet
from mipnet.errors import DataError, UserError
from mipnet.inference import pipeline
from mipnet.inference.detected_boxes import Detection
from mipnet.inference.detector import DetectorFile
from mipnet.inference.detector_layouts import Letterbox
from mipnet.inference.output_shards import (
    FILES_RECORD,
    OutputShards,
    predictions_digest,
    write_predictions,
)
from mipnet.inference.shard_prediction import predict_shards
from mipnet.storage import Folder

CONFIG, COCO = preset("debug"), preset("coco-hrnet-w32-256x192")
LENIENT = replace(CONFIG, data=replace(CONFIG.data, max_bad_share=0.5))
MODEL = Folder("/nowhere")
N, K = CONFIG.model.instances, CONFIG.data.joints.num_joints


def boxes_of(images: int) -> Boxes:
    """None in every fifth image, else one or two."""
    image = np.array([i for i in range(images) for _ in range(1 + i % 2) if i % 5 != 3])
    names = np.array([f"/pictures/{i}.jpg" for i in range(images)])
    box = np.column_stack([image, image, np.full((len(image), 2), 50.0)]).astype(np.float64)
    box[image == 0] = np.nan
    return Boxes(
        ImageIndex(names, np.arange(100, 100 + images)),
        image,
        box,
        np.ones(len(image)),
        np.zeros(len(image), int),
    )


class Network:
    """Stands in for the Ray pipeline: a pose says which box it is of; answers come out of order, in pieces.

    Args:
        stop_after: answers after which the process is interrupted.
        corrupt: images that cannot be read.
    """

    def __init__(self, stop_after: int = 1000, corrupt: tuple[int, ...] = ()) -> None:
        self.stop_after, self.corrupt = stop_after, corrupt
        self.asked: list[int] = []

    def __call__(self, boxes: Boxes, *_: Any) -> Iterator[dict[str, np.ndarray]]:
        order = np.argsort(np.arange(len(boxes)) + np.random.default_rng(0).uniform(0, 6, len(boxes)))
        for number, rows in enumerate(np.array_split(order, max(1, len(order) // 3))):
            if number == self.stop_after:
                raise KeyboardInterrupt
            image = boxes.image_index[rows]
            self.asked += image.tolist()
            corrupt = np.isin(image, self.corrupt)
            keypoints = np.zeros((len(rows), N, K, 3), np.float32)
            keypoints[..., :2] = np.arange(K)[None, None, :, None] * 20 + image[:, None, None, None]
            keypoints[:, 1, :, 0] += 500 * (1 + np.arange(K) % 2)  # another person
            keypoints[..., 2] = 0.9
            keypoints[corrupt] = np.nan
            bbox = np.where(np.isnan(boxes.boxes[rows]), [0, 0, 640, 480], boxes.boxes[rows])
            yield {"box": rows, "keypoints": keypoints, "corrupt": corrupt, "bbox": bbox}


def predict(
    network: Network, out: Folder, boxes: Boxes, monkeypatch: pytest.MonkeyPatch, config: Config = CONFIG
) -> list[str]:
    monkeypatch.setattr(pipeline, "iter_predictions", network)
    digest = predictions_digest(boxes, b"weights", CONFIG)
    shards = OutputShards.open(out, digest, boxes.images.uris.tolist(), size=4)
    unreadable = predict_shards(boxes, shards, MODEL, config, CONFIG.resources)
    write_predictions(shards, out)
    return unreadable


def outcome(out: Folder) -> list[dict[str, Any]]:
    return pq.read_table(io.BytesIO(out.read("results.parquet"))).to_pylist()


def test_interrupted_and_continued_is_the_same_as_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = boxes_of(30)
    once, twice = Folder.of(tmp_path / "once"), Folder.of(tmp_path / "twice")
    assert predict(Network(), once, boxes, monkeypatch) == []
    rows = outcome(once)
    assert [row["image_id"] for row in rows] == list(range(100, 130))
    assert [len(row["poses"]) > 0 for row in rows] == [i % 5 != 3 for i in range(30)]
    assert rows[0]["poses"][0]["box"] == [0, 0, 640, 480]  # the whole image
    results = json.loads(once.read("results.json"))
    assert len(results) == sum(len(row["poses"]) for row in rows)
    assert results[0].keys() == {
        "image_id", "category_id", "keypoints", "score", "instance", "box", "keep", "file_name",
    }  # fmt: skip

    for stop in (6, 3):
        with pytest.raises(KeyboardInterrupt):
            predict(Network(stop_after=stop), twice, boxes, monkeypatch)
    there = len([name for name in twice.join("parts").names() if name.endswith(".parquet")])
    assert 0 < there < 8
    last = Network()
    predict(last, twice, boxes, monkeypatch)
    assert outcome(twice) == rows
    assert twice.read("results.json") == once.read("results.json")
    assert len({image // 4 for image in last.asked}) <= 8 - there  # no part is predicted again


def test_other_pictures_settings_or_weights_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Folder.of(tmp_path)
    predict(Network(), out, boxes_of(10), monkeypatch)
    again = Network()
    predict(again, out, boxes_of(10), monkeypatch)
    assert again.asked == []
    more = Network()
    predict(more, out, boxes_of(12), monkeypatch)
    assert set(more.asked) == set(boxes_of(12).image_index.tolist())
    a = predictions_digest(boxes_of(4), b"weights", CONFIG)
    assert a != predictions_digest(boxes_of(4), b"other", CONFIG)
    assert a != predictions_digest(boxes_of(4), b"weights", replace(CONFIG, evaluation=COCO.evaluation))
    assert a == predictions_digest(boxes_of(4), b"weights", CONFIG)
    assert a != predictions_digest(boxes_of(4), b"weights", CONFIG, ["a", "b", "c", "d"])
    thinned = replace(CONFIG, data=replace(CONFIG.data, box_nms=0.5))
    assert a != predictions_digest(boxes_of(4), b"weights", thinned)


def test_all_poses_are_written_and_those_of_enough_score_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """λ = 1 has 0.9 times the score 0.9 of λ = 0; another least score asks the network for nothing."""
    out, boxes = Folder.of(tmp_path), boxes_of(30)
    predict(Network(), out, boxes, monkeypatch)
    everything = outcome(out)
    assert all(pose.pop("keep") for row in everything for pose in row["poses"])
    shards = OutputShards.open(out, predictions_digest(boxes, b"weights", CONFIG), boxes.images.uris.tolist())
    written = write_predictions(shards, out, min_score=0.85)
    rows, results = outcome(out), json.loads(out.read("results.json"))
    keeps = [pose.pop("keep") for row in rows for pose in row["poses"]]
    assert rows == everything
    assert keeps == [result["keep"] for result in results] == [result["score"] >= 0.85 for result in results]
    assert keeps == [result["instance"] == 0 for result in results]
    assert (written.poses, written.kept, written.images) == (len(results), sum(keeps), 30)
    assert 0 < written.kept < written.poses


@pytest.mark.parametrize("text", [True, False])
def test_results_have_the_ids_that_people_gave(
    text: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, boxes = Folder.of(tmp_path), boxes_of(6)
    predict(Network(), out, boxes, monkeypatch)
    shards = OutputShards.open(out, predictions_digest(boxes, b"weights", CONFIG), boxes.images.uris.tolist())
    write_predictions(shards, out, lambda number: "x7" if text and number == 101 else number, "person")
    results = json.loads(out.read("results.json"))
    assert {result["image_id"] for result in results} == {100, "x7" if text else 101, 102, 104, 105}
    assert {result["category_id"] for result in results} == {"person"}
    ids = [row["image_id"] for row in outcome(out)]
    assert ids == (["100", "x7", "102", "103", "104", "105"] if text else list(range(100, 106)))


def test_unreadable_images_are_rows_too_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, boxes = Folder.of(tmp_path), boxes_of(200)
    assert predict(Network(corrupt=(7,)), out, boxes, monkeypatch) == ["/pictures/7.jpg"]
    row = outcome(out)[7]
    assert (row["readable"], row["poses"]) == (False, [])
    assert predict(Network(), out, boxes, monkeypatch) == ["/pictures/7.jpg"]
    with pytest.raises(DataError, match="cannot be read"):
        predict(Network(corrupt=(1, 2, 4)), Folder.of(tmp_path / "other"), boxes, monkeypatch)


def pictures_in(folder: Path, count: int) -> Boxes:
    """``boxes_of`` with files, of 2020, that hold their number."""
    boxes = boxes_of(count)
    uris = np.array([str(folder / f"{i}.jpg") for i in range(count)])
    for i, uri in enumerate(uris.tolist()):
        Path(uri).write_text(f"{i:03d}")
        os.utime(uri, (1_577_836_800, 1_577_836_800))
    return replace(boxes, images=ImageIndex(uris, boxes.images.ids))


@pytest.mark.parametrize(
    ("content", "again"),
    [("new", {4, 5, 6, 7}), ("longer", {4, 5, 6, 7}), (None, {4, 5, 6, 7}), ("005", set())],
    ids=["other pixels", "another size", "gone", "touched"],
)
def test_the_shard_of_a_changed_picture_is_predicted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, again: set[int]
) -> None:
    out, boxes, picture = Folder.of(tmp_path / "out"), pictures_in(tmp_path, 11), tmp_path / "5.jpg"
    predict(Network(), out, boxes, monkeypatch)
    if content is None:
        picture.unlink()
    else:
        picture.write_text(content)
    network = Network()
    predict(network, out, boxes, monkeypatch)
    assert set(network.asked) == again  # four images a shard
    assert [row["image_id"] for row in outcome(out)] == list(range(100, 111))
    network = Network()
    predict(network, out, boxes, monkeypatch)
    assert network.asked == []


def test_the_shard_of_a_picture_that_can_be_read_again_is_predicted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, boxes = Folder.of(tmp_path / "out"), pictures_in(tmp_path, 11)
    cv2.imwrite(str(tmp_path / "5.jpg"), np.zeros((8, 8, 3), np.uint8))
    failed = [str(tmp_path / "5.jpg"), str(tmp_path / "10.jpg")]
    assert (
        predict(Network(corrupt=(5, 10)), out, boxes, monkeypatch, LENIENT) == failed
    )  # as where a disk fails
    network = Network()
    assert predict(network, out, boxes, monkeypatch, LENIENT) == failed[1:]
    assert set(network.asked) == {4, 5, 6, 7}  # 10.jpg is no picture still
    assert [row["readable"] for row in outcome(out)] == [image != 10 for image in range(11)]


def test_a_picture_that_the_detector_could_not_read_gets_no_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes, people = boxes_of(3), {"readable": True, "boxes": [[1.0, 2.0, 30.0, 40.0]], "scores": [0.9]}
    rows = [people, people, {"readable": False, "boxes": [], "scores": []}]
    found = OutputShards(Folder.of(tmp_path / "detections"), 3, 4, frozenset({0}))
    found.folder.write(found.file_name(0), to_parquet(pa.Table.from_pylist(rows)))
    shards = OutputShards(Folder.of(tmp_path / "parts"), 3, 4, frozenset())
    monkeypatch.setattr(pipeline, "iter_predictions", Network())  # which can read it
    detection = Detection(DetectorFile("d.onnx", {}), Letterbox((64, 64), "centre", round), found)
    unreadable = predict_shards(boxes, shards, MODEL, LENIENT, CONFIG.resources, detection=detection)
    assert unreadable == ["/pictures/2.jpg"]
    table = shards.table(0).to_pylist()
    assert [(row["readable"], len(row["poses"]) > 0) for row in table] == [
        (True, True),
        (True, True),
        (False, False),
    ]


def test_a_folder_of_somebody_elses_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "wheel.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"parts has files that are not of a prediction \(wheel.jpg\); give"):
        OutputShards.open(Folder.of(tmp_path), "digest", ["a.jpg"])
    assert (tmp_path / "parts" / "wheel.jpg").exists()
    (tmp_path / "parts" / "wheel.jpg").rename(tmp_path / "parts" / "000000.parquet.1a2b.part")  # of a kill
    assert len(OutputShards.open(Folder.of(tmp_path), "digest", ["a.jpg"])) == 1


@pytest.mark.parametrize(("record", "again"), [(None, False), (b"PAR1", True)], ids=["none", "damaged"])
def test_shards_without_fingerprints_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: bytes | None, again: bool
) -> None:
    out, boxes = Folder.of(tmp_path / "out"), pictures_in(tmp_path, 11)
    predict(Network(), out, boxes, monkeypatch)
    if record is None:
        out.remove(f"parts/{FILES_RECORD}")
    else:
        out.write(f"parts/{FILES_RECORD}", record)
    (tmp_path / "5.jpg").write_text("new")
    network = Network()
    predict(network, out, boxes, monkeypatch)
    assert len(network.asked) == again * len(boxes)
    (tmp_path / "5.jpg").write_text("newer")
    predict(network := Network(), out, boxes, monkeypatch)
    assert set(network.asked) == {4, 5, 6, 7}
