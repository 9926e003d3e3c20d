"""The boxes of ``mipnet predict --boxes``: which picture each is of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mipnet.errors import DataError
from mipnet.experiment.prediction import Pictures, read_boxes

NAMES = ["/p/day/0.jpg", "/p/day/1.jpg", "/p/night/0.jpg"]
BOX = [10, 20, 30, 40]


@pytest.fixture
def pictures() -> Pictures:
    return Pictures(NAMES, NAMES, [1, 2, 3])


def written(folder: Path, *keys: dict[str, Any]) -> str:
    (folder / "boxes.json").write_text(json.dumps([{**key, "bbox": BOX} for key in keys]))
    return str(folder / "boxes.json")


def test_by_id_by_whole_name_and_by_a_short_one_of_its_own(
    pictures: Pictures, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [{"image_id": 3}, {"file_name": "/p/day/0.jpg"}, {"file_name": "1.jpg"}, {"file_name": "9.jpg"}]
    boxes = read_boxes(written(tmp_path, *keys), pictures)
    assert boxes.image_index.tolist() == [0, 1, 2]
    assert boxes.boxes.tolist() == [BOX] * 3
    assert "left out: 1 of 4 boxes" in capsys.readouterr().out


def test_a_name_of_two_pictures_is_refused(pictures: Pictures, tmp_path: Path) -> None:
    path = written(tmp_path, {"file_name": "1.jpg"}, {"file_name": "0.jpg"})
    with pytest.raises(DataError) as caught:
        read_boxes(path, pictures)
    assert f"{path}: detection 1 is of '0.jpg', as several images are called" in str(caught.value)
    twice = Pictures(["a#row=0", "b#row=0"], ["same.jpg", "same.jpg"], [1, 2])  # rows of two tables
    with pytest.raises(DataError, match=r"'same\.jpg', as several images are called"):
        read_boxes(written(tmp_path, {"file_name": "same.jpg"}), twice)
