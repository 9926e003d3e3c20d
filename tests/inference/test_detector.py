"""Exported detectors of every layout: their boxes are where the person is, whatever the picture's shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import mipnet
from mipnet.errors import UserError
from mipnet.inference.detector import MAX_PEOPLE, Detector, DetectorFile, Found
from tests.helpers.detectors import LAYOUTS, Size, red_picture, save_detector

NAMES = {
    "rf-detr": "RF-DETR",
    "rtmdet": "RTMDet",
    "yolox": "YOLOX",
    "yolox-raw": "YOLOX",
    "yolo": "YOLO",
    "yolo-end-to-end": "YOLO with NMS",
}


def load(path: Path) -> Detector:
    return Detector(DetectorFile.read(path), threads=1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ((301, 163), (128, 128)),
        ((101, 211), (128, 128)),
        ((257, 130), (128, 96)),
        ((90, 71), (96, 128)),
        ((128, 128), (128, 128)),
    ],
)
def test_boxes_are_where_the_person_is(layout: str, picture: Size, size: Size, tmp_path: Path) -> None:
    detector = load(save_detector(tmp_path / "d.onnx", layout, size, padding=True))
    assert detector.layout.name == NAMES[layout]
    w, h = picture
    boxes = [(15, 12, 30, 40), (w - 52, 14, 38, 30), (18, h - 46, 40, 32), (12, 12, w - 26, h - 24)]
    for box in boxes:
        found = detector(red_picture(picture, box))
        person = np.flatnonzero(found.scores > 0.9)
        assert len(person) == 1  # neither the car nor the person again
        np.testing.assert_allclose(found.boxes[person[0]], box, atol=0.5)
        assert found.scores[person[0]] == pytest.approx(1, abs=0.01)  # colours are as the network knows them
        others = np.delete(found.scores, person)
        padded = layout != "rf-detr" and w * size[1] != h * size[0]
        if box is not boxes[3]:  # this one and the whole input overlap
            assert others.tolist() == pytest.approx([114 / 255] * padded, abs=2e-3)
    nobody = detector(np.zeros((h, w, 3), np.uint8))
    assert (nobody.scores < 0.5).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_picture_without_persons(layout: str, tmp_path: Path) -> None:
    detector = load(save_detector(tmp_path / "d.onnx", layout, (128, 128)))
    picture = np.full((70, 110, 3), 200, np.uint8)
    picture[..., 2] = 255  # nothing is red
    found = detector(picture)
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == (0,)


@pytest.mark.parametrize("options", [{"batch": 1}, {"batch": 2}, {"half": True}, {}])
def test_batches_of_pictures(options: dict[str, int], tmp_path: Path) -> None:
    detector = load(save_detector(tmp_path / "d.onnx", "yolox", (128, 96), **options))
    pictures = [red_picture((150, 60 + 30 * i), (20 + 20 * i, 15, 30, 30)) for i in range(3)]
    inputs = np.stack([detector.frame.fit(picture) for picture in pictures])
    found = detector.find(inputs, [(p.shape[1], p.shape[0]) for p in pictures])
    for each, picture, i in zip(found, pictures, range(3), strict=True):
        alone = detector(picture)
        np.testing.assert_allclose(each.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(each.boxes, [[20 + 20 * i, 15, 30, 30]], atol=0.5)


def test_a_graph_without_a_size_takes_the_usual_one(tmp_path: Path) -> None:
    detector = load(save_detector(tmp_path / "d.onnx", "yolo", (640, 640), dynamic=True))
    assert detector.frame.size == (640, 640)
    np.testing.assert_allclose(
        detector(red_picture((333, 500), (40, 50, 60, 70))).boxes, [[40, 50, 60, 70]], atol=0.5
    )


def test_classes_are_those_that_a_file_names(tmp_path: Path) -> None:
    swapped = {"names": str({0: "tree", 1: "x", 2: "Person", **{i: str(i) for i in range(3, 80)}})}
    detector = load(save_detector(tmp_path / "a.onnx", "yolo", (128, 128), metadata=swapped))
    assert detector(red_picture((128, 128), (20, 20, 40, 40))).scores == pytest.approx(
        [0.9], abs=0.01
    )  # the car
    path = save_detector(tmp_path / "b.onnx", "yolo", (128, 128), metadata={"names": "['tree', 'bird']"})
    with pytest.raises(UserError, match=r"b\.onnx finds no persons, but tree, bird"):
        load(path)


def test_a_crowd_is_cut_at_the_best() -> None:
    rng = np.random.default_rng(0)
    found = Found(rng.uniform(1, 50, (40, 4)), np.sort(rng.uniform(0, 1, 40))[::-1])
    assert (found.scores[found.kept(0.5, 1)] >= 0.5).all()
    assert len(found.kept(0, 0.3)) < 40
    assert MAX_PEOPLE >= 100


def plain_model(path: Path, outputs: dict[str, list[int]], shape: list[int | str], kind: int = 1) -> Path:
    """A graph that answers zeros of some shapes."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs.items()]
    nodes = [helper.make_node("ConstantOfShape", [f"shape {name}"], [name]) for name in outputs]
    constants = [
        helper.make_tensor(f"shape {name}", TensorProto.INT64, [len(d)], d) for name, d in outputs.items()
    ]
    given = helper.make_tensor_value_info("images", kind, shape)
    graph = helper.make_graph(nodes, "g", [given], values, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.mark.parametrize(("outputs", "shape", "message"), [
    ({"logits": [1, 1000]}, [1, 3, 64, 64], "is no detector that is known: it gives logits float32 1x1000"),
    ({"dets": [1, 5, 6], "labels": [1, 5]}, [1, 3, 64, 64], "is known: it gives dets float32 1x5x6"),
    ({"output0": [1, 90, 83]}, [1, 3, 64, 64], "is no detector that is known"),
    ({"output0": [84, 84]}, [1, 3, 64, 64], "is no detector that is known"),
    ({"output0": [1, 16, 84]}, [1, 3, 64, 64], "does not say which of its 12 classes are persons"),
    ({"output0": [1, 84, 84]}, [1, 1, 64, 64], "its input is not one picture of 3 channels"),
    ({"output0": [1, 84, 84]}, [1, 3], "its input is not one picture of 3 channels"),
    ({"output0": [1, 84, 84]}, [1, 3, 64, 100_000], "takes pictures of 100000x64 px"),
])  # fmt: skip
def test_a_graph_that_is_no_detector(outputs, shape, message, tmp_path):
    path = plain_model(tmp_path / "other.onnx", outputs, shape)
    with pytest.raises(UserError) as error:
        load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_files_that_are_no_graphs(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    (tmp_path / "model.pt").write_text("no graph")
    for name, message in {
        "text.onnx": r"text\.onnx is no ONNX model that can be run: ",
        "model.pt": r"the detector \S+ is no ONNX file; give a file that ends in \.onnx",
        "nothing.onnx": r"the detector \S+ does not exist",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            load(tmp_path / name)
        assert "/tmp/tmp" not in str(error.value).replace(str(tmp_path), "")


def test_weights_outside_of_the_graph_stay_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "detector"
    folder.mkdir()
    model = onnx.load(save_detector(tmp_path / "whole.onnx", "yolo", (128, 128)))
    path = folder / "d.onnx"
    onnx.save(model, path, save_as_external_data=True, location="d.onnx.data", size_threshold=512)
    picture = red_picture((150, 100), (30, 20, 40, 50))
    detector = load(path)
    np.testing.assert_allclose(detector(picture).boxes, [[30, 20, 40, 50]], atol=0.5)

    digest = DetectorFile.read(path).digest
    (folder / "d.onnx_cache").mkdir()
    (folder / "e.onnx").mkdir()
    with pytest.raises(UserError, match=r"e\.onnx does not exist"):
        load(folder / "e.onnx")
    (folder / "d.onnx.txt").touch()
    assert [*DetectorFile.read(path).contents] == ["d.onnx", "d.onnx.data"]
    (folder / "d.onnx.data").rename(tmp_path / "outside.data")
    assert DetectorFile.read(path).digest != digest
    with pytest.raises(UserError, match="lie in files other than"):
        load(path)
    for where in ("../outside.data", str(tmp_path / "outside.data")):
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = where if entry.key == "location" else entry.value
        path.write_bytes(model.SerializeToString())
        with pytest.raises(UserError, match="lie in files other than"):
            load(path)


def test_the_python_predictor_takes_pictures_without_boxes(small_models: list[Path], tmp_path: Path) -> None:
    detector = save_detector(tmp_path / "d.onnx", "rtmdet", (128, 128))
    predictor = mipnet.load_predictor(small_models[0], "cpu", detector=detector)
    picture = red_picture((150, 100), (30, 20, 40, 50))
    poses = predictor(picture)
    assert len(poses)
    np.testing.assert_allclose(poses.box, np.tile([30, 20, 40, 50], (len(poses), 1)), atol=0.5)
    given = predictor(picture, poses.box[:1], [predictor.detector(picture).scores[0]])
    np.testing.assert_array_equal(poses.keypoints, given.keypoints)
    np.testing.assert_array_equal(poses.scores, given.scores)
    assert len(predictor(np.zeros((100, 150, 3), np.uint8))) == 0
    with pytest.raises(UserError, match="does not exist"):
        mipnet.load_predictor(small_models[0], detector=tmp_path / "none.onnx")
