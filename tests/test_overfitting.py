"""A small network learns photographs by heart: all of training, prediction and evaluation is right.

A file of its own, with a Ray of its own: another process of the tests runs it beside the end-to-end runs.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.helpers.commands import command
from tests.helpers.drills import only_run


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.shared
def test_a_small_network_overfits_real_photographs(shared: Path, tmp_path: Path) -> None:
    """86 people of COCO: nearly as well as heatmaps of this size can say (AP 95.8)."""
    settings = {
        "data": {
            "root": str(shared / "data" / "coco-mini"),
            "train": "train2017",
            "val": "train2017",
            "evaluate": ["train2017"],
            "boxes": ["gt"],
        },
        "input": {"width": 96, "height": 128},
        "target": {"sigma": 2},
        "augment": {"flip": 0, "scale": 0, "rotation": 0, "shift": 0, "colour": 0},
        "train": {"epochs": 80, "checkpoint_steps": 2000},
        "evaluation": {"flip_test": False},
        "tracking": {"register": False},
    }
    (tmp_path / "coco.yaml").write_text(yaml.safe_dump(settings))
    argv = ["train", "--config", str(tmp_path / "coco.yaml"), "--storage", str(tmp_path / "storage")]
    done = command(*argv)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    metrics = json.loads((only_run(tmp_path / "storage") / "results" / "metrics.json").read_text())
    assert metrics["train2017/gt/merged/AP"] >= 0.90
    ceiling = next(line for line in done.stdout.splitlines() if "ceiling" in line)
    assert float(ceiling.split()[-1]) == pytest.approx(95.8, abs=0.1)
