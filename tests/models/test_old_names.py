"""Model folders from before arguments of ``build_model`` were renamed."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from mipnet.models.build import build_model
from mipnet.models.weights import load_model, read_description, save_model


def test_load_model_reads_the_old_names(tmp_path: Path) -> None:
    model = build_model("hrnet", 5, 2, (2, 3), width=8, num_modules=(1, 1), blocks=1, stem_channels=8)
    path = save_model(tmp_path, model) / "model.json"
    description = json.loads(path.read_text())
    new = description["architecture"]
    old = {"num_keypoints": "num_joints", "mimb_stages": "places", "num_modules": "modules"}
    description["architecture"] = {old.get(name, name): value for name, value in new.items()}
    assert {"num_joints", "places", "modules"} < set(description["architecture"])
    path.write_text(json.dumps(description))
    assert read_description(tmp_path)[0] == new == model.architecture
    found, _ = load_model(tmp_path)
    assert found.architecture == model.architecture
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in found.state_dict().items())
