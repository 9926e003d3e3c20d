"""COCO, CrowdPose and OCHuman through the command line, each by its own layout and rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mipnet.cli.main import main
from mipnet.config import preset, to_dict
from mipnet.config.presets import baseline
from mipnet.evaluation.protocols import METRIC_NAMES
from mipnet.models.weights import save_model
from mipnet.training.checkpoint import model_from_config
from tests.helpers.commands import command

DEBUG = ("--preset", "debug", "--epochs", "1", "--tracking.register", "false")


@pytest.fixture(scope="module")
def coco_run(shared: Path, ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A storage with the run ``coco`` of the debug network, and what was said.

    It starts from a single-instance network, in the folder ``single``.
    """
    storage = tmp_path_factory.mktemp("storage")
    config = baseline(preset("debug"))
    single = save_model(storage / "single", model_from_config(config), {"config": to_dict(config)})
    splits = [f"--data.{which}=train2017" for which in ("train", "val", "evaluate")]
    argv = ["train", *DEBUG, "--name", "coco", "--data", str(shared / "data/coco-mini"), *splits]
    argv += ["--train.init", str(single)]
    done = command(*argv, "--data.boxes", "gt", "--storage", str(storage), address=ray_address)
    assert done.returncode == 0, done.stderr
    return storage, done.stdout


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.shared
def test_coco_is_ranked_by_its_overlapped_people(coco_run: tuple[Path, str]) -> None:
    storage, said = coco_run
    name = "occlusion AP (AP_overlap of train2017 in gt boxes: people with a neighbour above box IoU 0.3): "
    assert name in said
    run = storage / "runs" / "coco"
    metrics = json.loads((run / "results" / "metrics.json").read_text())
    assert [key.rpartition("/")[2] for key in metrics if "/merged/" in key] == list(METRIC_NAMES["coco"])
    best = json.loads((run / "run.json").read_text())["trained"]["best"]
    assert best["validation_occlusion_AP"] == best["train2017/gt/merged/AP_overlap"]
    assert "AP_overlap" in (run / "report.html").read_text()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.shared
def test_it_starts_from_a_single_instance_network(coco_run: tuple[Path, str]) -> None:
    """What that lacks stays random, and is said."""
    storage, said = coco_run
    line = next(line for line in said.splitlines() if line.startswith(f"starting from {storage}/single;"))
    assert "random: 4 MIMBs at places 2 and 3" in line
    assert "stages" not in line


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.shared
def test_a_coco_model_is_scored_on_ochuman_in_one_line(
    coco_run: tuple[Path, str], shared: Path, ray_address: str, tmp_path: Path
) -> None:
    storage, _ = coco_run
    root = tmp_path / "ochuman"
    root.mkdir()
    (root / "images").symlink_to(shared / "data/coco-mini/train2017")
    people = (shared / "data/coco-mini/annotations/person_keypoints_train2017.json").read_text()
    for split in ("val", "test"):
        (root / f"ochuman_coco_format_{split}_range_0.00_1.00.json").write_text(people)
    argv = ["evaluate", "coco", "--storage", str(storage), "--dataset", "ochuman", "--data", str(root)]
    done = command(*argv, "--out", str(tmp_path / "out"), address=ray_address)
    assert done.returncode == 0, done.stderr
    assert "occlusion AP (AP of test in gt boxes): " in done.stdout
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    theirs = json.loads((storage / "runs/coco/results/metrics.json").read_text())
    for split in ("val", "test"):
        renamed = {key.replace("train2017/", f"{split}/"): value for key, value in theirs.items()}
        assert {key: found[key] for key in renamed} == pytest.approx(renamed, abs=1e-6)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.shared
def test_a_coco_model_is_refused_on_crowdpose(
    coco_run: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    storage, _ = coco_run
    assert main(["evaluate", "coco", "--storage", str(storage), "--dataset", "crowdpose"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "the 17 joints of coco17, the data has the 14 of crowdpose14" in line


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.shared
def test_crowdpose_is_trained_and_judged_by_its_rules(shared: Path, ray_address: str, tmp_path: Path) -> None:
    data = shared / "data/crowdpose-sample"
    splits = [f"--data.{which}=sample" for which in ("train", "val", "evaluate")]
    argv = ["train", *DEBUG, "--batch-size", "2", "--data", str(data), "--data.format", "crowdpose"]
    argv += ["--data.skeleton", "crowdpose14", "--data.annotations", "crowdpose_{split}.json", *splits]
    boxes = f"det={data}/person_detections.json"
    done = command(*argv, "--data.boxes", boxes, "--storage", str(tmp_path), address=ray_address)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    metrics = json.loads((run / "results" / "metrics.json").read_text())
    # both images are of medium crowdIndex: there is nobody to measure easy and hard by
    expected = [name for name in METRIC_NAMES["crowdpose"] if name not in ("AP_easy", "AP_hard")]
    assert [key.rpartition("/")[2] for key in metrics if "/merged/" in key] == expected
    assert "occlusion AP (AP of sample in det boxes): " in done.stdout
    assert "AP_hard" in (run / "report.html").read_text()
    results = json.loads((run / "results/coco/sample-det-merged.json").read_text())
    assert {len(result["keypoints"]) for result in results} == {3 * 14}
