"""What ``mipnet predict`` finds in a folder, and what it says of the rest."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from mipnet.cli.main import main
from mipnet.config import preset
from mipnet.data.image_names import PICTURE_SUFFIXES
from mipnet.data.parquet import to_parquet
from mipnet.errors import DataError, UserError
from mipnet.experiment import prediction
from mipnet.experiment.prediction import check_if_few, find_pictures
from mipnet.skeletons import COCO17
from mipnet.storage import Folder


def test_what_is_no_picture_to_use_is_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "b.TIF", "c.JFIF", "d.heic", "e.HEIC", "list.json"):
        (tmp_path / name).write_bytes(b"")
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff.png", os.O_CREAT))
    found = find_pictures([str(tmp_path)])
    assert [Path(uri).name for uri in found.uris] == ["a.jpg", "b.TIF", "c.JFIF"]
    assert capsys.readouterr().out.splitlines() == [
        "left out: 2 x .heic picture, which cannot be decoded; convert it to JPEG or PNG: d.heic, e.HEIC",
        "left out: 1 x picture whose name is not UTF-8; rename it: \\udcff.png",
    ]


def test_only_such_pictures_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d.heic").write_bytes(b"")
    assert main(["predict", str(tmp_path)]) != 0
    said = capsys.readouterr()
    assert "1 x .heic picture, which cannot be decoded; convert it to JPEG or PNG: d.heic" in said.out
    assert f"{tmp_path} holds no pictures; they end in {', '.join(PICTURE_SUFFIXES)}; tables" in said.err


def test_one_such_picture(tmp_path: Path) -> None:
    (tmp_path / "d.heic").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 1 images cannot be read \(.*d.heic\); convert HEIC to JPEG$"):
        check_if_few(find_pictures([str(tmp_path / "d.heic")]), 0.5)
    name = os.fsdecode(b"\xff.png")
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"/\\udcff\.png is not UTF-8; rename it"):
        find_pictures([str(tmp_path / name)])


def test_overlays_of_an_earlier_prediction_are_no_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "out/overlays/1_a.jpg", "out/overlays.jpg", "out/b.jpg", "overlays/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    out = str(tmp_path / "out")
    assert find_pictures([str(tmp_path)], out).names == ["a.jpg", "out/b.jpg", "overlays/c.jpg"]
    drawn = f"{out}/overlays.jpg, {out}/overlays/1_a.jpg"
    assert capsys.readouterr().out == f"left out: 2 x overlay of an earlier prediction: {drawn}\n"
    with pytest.raises(UserError, match=r"all pictures are overlays in .*out; give other pictures"):
        find_pictures([f"{out}/overlays"], out)


def test_a_prediction_of_other_pictures_starts_anew_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, model, out = preset("debug"), Folder(str(tmp_path / "model")), Folder(str(tmp_path / "out"))
    model.write("weights.safetensors", "")
    monkeypatch.setattr("mipnet.ray_runtime.session.connect", lambda *_: nullcontext(config.resources))
    monkeypatch.setattr("mipnet.ray_runtime.probes.probe_files", lambda _: None)
    monkeypatch.setattr(prediction, "predict_shards", lambda *_, **__: [])
    monkeypatch.setattr(prediction.output_shards, "write_predictions", lambda *_: None)

    def predict(name: str, *, given: bool = False) -> str:
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
        pictures = find_pictures([str(tmp_path / name)])
        boxes = pictures.whole()
        boxes = replace(boxes, boxes=np.ones((1, 4))) if given else boxes
        prediction.predict_pictures(pictures, boxes, model, config, out)
        return capsys.readouterr().out

    assert "anew" not in predict("a.png")
    written = ("overlays/1_a.jpg", "overlays.jpg", "boxes.json")
    out.write("overlays/mine.jpg", "")
    for name in written:
        out.write(name, "")
    assert "anew" not in predict("a.png")
    assert all(out.exists(name) for name in written)
    assert f"{out.uri} has another prediction: starting anew\n" in predict("b.png", given=True)
    assert [out.exists(name) for name in written] == [False, False, True]
    assert "starting anew" in predict("a.png")
    assert not out.exists("boxes.json")
    assert out.exists("overlays/mine.jpg")


def test_the_overlay_of_a_picture_with_a_long_name(tmp_path: Path) -> None:
    name = "写" * 80 + ".jpg"  # 244 bytes
    cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
    pictures, out = find_pictures([str(tmp_path)]), Folder(str(tmp_path / "out"))
    row = {"image_id": 1, "file_name": name, "readable": True, "poses": []}
    out.write("results.parquet", to_parquet(pa.Table.from_pylist([row])))
    prediction.draw_overlays(out, pictures, COCO17, None, count=1, show=False)
    (overlay,) = out.names("overlays")
    assert overlay.endswith(f"_{'写' * 33}.jpg")
