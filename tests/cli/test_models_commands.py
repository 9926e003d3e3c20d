"""``mipnet models import | export | summary``, as a user runs them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mipnet.cli.main import main
from mipnet.config import from_dict, preset
from mipnet.errors import UserError
from mipnet.experiment.training_phase import initial_weights
from mipnet.models.build import build_model
from mipnet.models.reference_names import to_reference
from mipnet.models.weights import DESCRIPTION_FILE, load_model
from mipnet.run_folder import Run
from mipnet.storage import Folder
from tests.helpers.networks import HRNET


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A training checkpoint of a small single-instance network, as the reference writes it."""
    torch.manual_seed(0)
    model = build_model("hrnet", 17, 1, (), **HRNET)
    state = to_reference(model.architecture, model.state_dict())
    state = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 210, "model": "pose_hrnet", "state_dict": state}, tmp_path / "published.pth")
    return tmp_path / "published.pth"


def test_import_summary_export(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, back = tmp_path / "model", tmp_path / "back.pth"
    size = ["--input.width", "64", "--input.height", "96"]
    assert main(["models", "import", str(published), "--out", str(folder), *size]) == 0
    said = capsys.readouterr().out
    assert "N = 1, no MIMBs; 17 joints (coco17); input 64x96" in said
    assert f"parameters, all from {published}" in said
    assert f"model: {folder}" in said

    assert main(["models", "summary", str(folder), "--model.instances", "2", "--model.mimb-stages", "2"]) == 0
    assert "N = 2, MIMBs at places 2 (r = 4); 17 joints (coco17); input 64x96" in capsys.readouterr().out

    assert main(["models", "export", str(folder), "--out", str(back)]) == 0
    written = torch.load(back, weights_only=True)
    assert f"{len(written)} tensors: {back}" in capsys.readouterr().out
    original = torch.load(published, weights_only=True)["state_dict"]
    assert {f"module.{n}" for n in written} == set(original)
    assert all(torch.equal(original[f"module.{n}"], t) for n, t in written.items())


def test_an_encoder_says_what_is_unused_and_what_stays_random(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(published, weights_only=True)["state_dict"]
    state = {n.removeprefix("module."): t for n, t in state.items() if "final_layer" not in n}
    unused = {
        "classifier.weight": torch.zeros(3, 4),
        "classifier.bias": torch.zeros(3),
        "head.0.x": torch.zeros(1),
    }
    torch.save({**state, **unused}, published)
    assert main(["models", "import", str(published), "--out", str(tmp_path / "model")]) == 0
    said = capsys.readouterr().out
    assert "random in what starts from it: the heatmap layer" in said
    assert "not used: classifier (2 tensors), head (1 tensors)" in said
    assert "mipnet train --train.init" in said


def test_what_was_decided_about_a_file_is_said(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the import, and by a training that starts from the file."""
    content = torch.load(published, weights_only=True)
    torch.save({**content, "state_dict_ema": content["state_dict"]}, published)
    note = "weights of 'state_dict_ema' are used, not those of 'state_dict'"
    assert main(["models", "import", str(published), "--out", str(tmp_path / "model")]) == 0
    assert f"\n{note}\n" in capsys.readouterr().out
    initial_weights(run_from(str(published), tmp_path))
    assert capsys.readouterr().out.startswith(f"{published}: {note}\n")


def test_what_was_assumed_is_said(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of weights of MMPose: joints and crop, and whatever speaks against them."""

    def said(dataset: str, cfg: str, *flags: str) -> list[str]:
        state = torch.load(published, weights_only=True)["state_dict"]
        meta = {"dataset_meta": {"dataset_name": dataset}, "cfg": cfg}
        torch.save({"state_dict": state, "meta": meta}, tmp_path / "mm.pth")
        out = str(tmp_path / "model")
        assert main(["models", "import", str(tmp_path / "mm.pth"), "--out", out, *flags]) == 0
        words = ("taken for", "warning", "input ")
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith(words)]

    joints = "taken for coco17 because it has 17 joints; else give --skeleton"
    crop = "input 192x256 is assumed; else give --input.width and --input.height"
    assert said("coco", "codec = dict(type='MSRAHeatmap')") == [joints, crop]
    assert said("COCO", "", "--skeleton", "coco17", "--input.width", "192") == []
    for cfg in ("codec = dict(type='UDPHeatmap')", "train_cfg = dict(use_udp=True)"):
        lines = [line.partition(",")[0] for line in said("posetrack18", cfg)]
        warning = "warning: it was trained on posetrack18"
        assert lines == ["warning: trained with UDP", joints, warning, crop]


def run_from(init: str, tmp_path: Path, skeleton: str = "coco17") -> Run:
    config = from_dict(
        {
            "model": {**HRNET, "mimb_stages": [2]},
            "train": {"init": init},
            "data": {"skeleton": skeleton},
            "input": {"width": 32, "height": 48},
        },
        preset("debug"),
    )
    return Run("run", Folder.of(tmp_path / "runs" / "run"), config)


@pytest.mark.parametrize("imported", [False, True])
def test_a_training_starts_from_the_file_or_from_what_it_was_imported_to(
    imported: bool, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init = str(published)
    if imported:
        init = str(tmp_path / "model")
        assert main(["models", "import", str(published), "--out", init]) == 0
    capsys.readouterr()
    run = run_from(init, tmp_path, "crowdpose14")
    folder = Folder(initial_weights(run))
    said = capsys.readouterr().out
    assert said == (
        f"starting from {init}; random: 1 MIMB at place 2, "
        "the heatmaps of head, neck (12 joints are coco17's)\n"
    )
    model, extra = load_model(folder.local_path)
    assert model.architecture["num_keypoints"] == 17
    assert extra["config"]["data"]["skeleton"] == "coco17"
    published.unlink()  # a continued run does not need it any more
    assert initial_weights(run) == folder.uri


def test_training_from_another_network_is_refused(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_from(str(published), tmp_path)
    run.config = replace(run.config, model=replace(run.config.model, width=12))
    with pytest.raises(
        UserError, match=rf"{re.escape(str(published))} holds weights of another network: width 8"
    ):
        initial_weights(run)


def test_summary_of_the_papers_networks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "summary", "--preset", "coco-hrnet-w48-384x288"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 24  # one screen
    assert max(map(len, lines)) <= 110
    said = "\n".join(lines)
    assert re.search(r"parameters +63,746,081 +63,595,745 +\+ 0\.24 %", said)
    assert re.search(r"multiply-adds / 1024\^3, one λ +32\.88 +32\.88 .*35\.31 and 35\.31 · 10\^9", said)
    assert re.search(r"multiply-adds / 1024\^3, 2 λ +46\.56 +32\.88 +x 1\.42", said)
    assert re.search(r"in front of the first MIMB +58\.4 %", said)
    assert re.search(r"MIMBs +3 +48x96x72, 96x48x36, 192x24x18, 384x12x9 +148,500", said)
    assert "heatmaps 72x96" in said

    flags = ["--skeleton", "crowdpose14", "--model.depth", "152", "--model.backbone", "simplebaseline"]
    assert main(["models", "summary", "--preset", "coco-hrnet-w32-256x192", *flags]) == 0
    said = capsys.readouterr().out
    assert "SimpleBaseline, ResNet-152" in said
    assert re.search(r"head +14x64x48", said)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["models", "import"], "mipnet models import FILE --out DIR"),
        (["models", "import", "x.pth"], "mipnet models import FILE --out DIR"),
        (["models", "import", "x.pth", "--out", "m"], "cannot read x.pth (No such file or directory)"),
        (["models", "export"], "mipnet models export MODEL --out FILE"),
        (["models", "export", "/nowhere/model", "--out", "x.pth"], "no model at '/nowhere/model'"),
        (["models", "summary", "/nowhere/model"], "no model at '/nowhere/model'"),
        (["models", "summary", __file__], f"mipnet models import {__file__} --out FOLDER makes one"),
        (["models", "summary", "--model.mimb-stages", "5"], "5 is not a MIMB stage of hrnet"),
        (["models", "sumary"], "unknown command 'models sumary'; did you mean 'models summary'?"),
    ],
)
def test_mistakes_get_one_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argv", [["models"], ["models", "--help"], ["data", "-h"]])
def test_a_group_lists_its_verbs(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    said = capsys.readouterr().out
    verbs = {"models": ["import", "export", "summary"], "data": ["generate", "check", "import", "pack"]}[
        argv[0]
    ]
    assert [line.split()[2] for line in said.splitlines()] == verbs


def test_a_model_folder_without_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / DESCRIPTION_FILE).write_text("{}")
    assert main(["models", "summary", str(tmp_path)]) == 2
    assert "does not hold the configuration" in capsys.readouterr().err
