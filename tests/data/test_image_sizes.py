"""Releases whose JSON has width and height the wrong way round."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from mipnet.config.schema import DataConfig
from mipnet.data.dataset_formats import open_split
from mipnet.storage import Folder


@pytest.mark.shared
def test_a_release_of_crowdpose_with_swapped_sizes(shared: Path, tmp_path: Path) -> None:
    """The 2,000 images of val, swapped as train and test were released: same people, one line."""
    truth = json.loads((shared / "data/crowdpose-sample/crowdpose_val.json").read_text())
    swapped = copy.deepcopy(truth)
    for image in swapped["images"]:
        image["width"], image["height"] = image["height"], image["width"]
    (tmp_path / "images").mkdir()
    for name, content in (("right", truth), ("swapped", swapped)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    data = DataConfig(format="crowdpose", skeleton="crowdpose14", annotations="{split}.json")
    right, mended = (open_split(data, Folder.of(tmp_path), split) for split in ("right", "swapped"))
    assert not [note for note in right.fixes if "turned back" in note]
    (note,) = [note for note in mended.fixes if "turned back" in note]
    assert "x image whose width and height were swapped, turned back" in note
    boxes = [file.people().boxes for file in (right, mended)]
    assert (boxes[0] == boxes[1]).all()
