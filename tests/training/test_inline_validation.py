"""The training processes validate a checkpoint to the same digits as ``mipnet evaluate`` its files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ray.train import ReportedCheckpointStatus as Status

from mipnet.cli.main import main
from mipnet.config import Config
from mipnet.data.dataset_formats import open_split
from mipnet.errors import DataError
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.inference.crop_predictor import CropPredictor, DivergedError
from mipnet.inference.pipeline import collect_poses, predict_batches
from mipnet.run_folder import TRAINING_FOLDER
from mipnet.storage import Folder
from mipnet.tracking.journal import Journal, JournalReader
from mipnet.training import inline_validation
from mipnet.training.checkpoint import checkpoint_name, evaluated_model, model_from_config, save_checkpoint
from mipnet.training.inline_validation import WorkerValidation
from mipnet.training.recovery import checkpoint_names, write_record
from mipnet.training.step import TrainStep
from mipnet.training.validation_plan import ValidationPlan
from tests.helpers.steps import CPU, run_ranks

STEP = 20
PLAN = ValidationPlan("inline", every=2, checkpoint_steps=10, end_step=95)


def made_step(config: Config, rank: int = 0) -> TrainStep:
    """A step whose EMA is not its weights; each rank has batch-norm buffers of its own."""
    torch.manual_seed(0)
    step = TrainStep(model_from_config(config), config, 95, CPU, "fp32")
    with torch.no_grad():
        for average in step.ema_params:
            average.mul_(1.5)
    step.bn_buffers += 0.25 * rank
    step.all_reduce_bn_buffers()
    step.step = STEP
    return step


def worker(config: Config, folder: Path, rank: int = 0, plan: ValidationPlan = PLAN) -> WorkerValidation:
    run, data = Folder.of(folder), Folder.of(config.data.root)
    return WorkerValidation(plan, config, run, data, 1 + rank, Journal(run, "worker"), rank)


def validate_one(rank: int, folder: str, config: Config, device: torch.device) -> dict[str, Any]:
    """The metrics that a rank reports with a checkpoint, which rank 0 saves."""
    step = made_step(config, rank)
    found = worker(config, Path(folder), rank).before_report(step)
    if rank == 0:
        save_checkpoint(Path(folder), step, [{"step": STEP, "loss": 0.1}])
    return {name: float(value) for name, value in found.items()}


@pytest.fixture(scope="module")
def learnable(small_coco: Folder, small_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """``small_coco`` with the poses that the network of ``made_step`` finds, about: its AP is not 0."""
    root = tmp_path_factory.mktemp("learnable")
    (root / "train").symlink_to(small_coco.local_path / "train")
    evaluation = replace(small_config.evaluation, precision="fp32", flip_test=False, batch_size=4)
    train = replace(small_config.train, ema=0.9, gradient_accumulation_steps=1, precision="fp32")
    config = replace(small_config, evaluation=evaluation, train=train)
    boxes = open_split(config.data, small_coco, "train").ground_truth_boxes()
    predictor = CropPredictor.of(evaluated_model(made_step(config)), config, evaluation, CPU)
    poses = collect_poses(boxes, predict_batches(predictor, boxes, config), config).keypoints[:, 0]
    name = "annotations/person_keypoints_train.json"
    content = json.loads(small_coco.read(name))
    rng = np.random.default_rng(0)
    for person, pose in zip(content["annotations"], poses, strict=True):
        moved = np.clip(pose[:, :2] + rng.normal(0, rng.uniform(0, 4), (17, 2)), 0, [119, 99])
        person["keypoints"] = np.column_stack([moved, np.full(17, 2)]).ravel().tolist()
    (root / "annotations").mkdir()
    (root / name).write_text(json.dumps(content))
    return replace(config, data=replace(config.data, root=str(root)))


@pytest.mark.ray
@pytest.mark.slow
def test_any_number_of_ranks_finds_what_evaluate_finds(
    learnable: Config, tmp_path: Path, on_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        if ranks == 1:
            found = validate_one(0, str(folder), learnable, CPU)
        else:
            found, other = run_ranks(folder, learnable, validate_one)
            assert other == {}
        assert main(["evaluate", str(folder), "--storage", str(tmp_path), "--out", str(folder / "out")]) == 0
        evaluated = json.loads((folder / "out" / "metrics.json").read_text())
        metrics = {name: value for name, value in found.items() if name != SELECTION_METRIC}
        assert json.dumps(metrics, sort_keys=True) == json.dumps(evaluated, sort_keys=True)  # nan equals nan
        assert 0 < metrics["train/gt/merged/AP"] < 1
        rows = [record["row"] for record in records(folder) if "row" in record]
        assert [row["step"] for row in rows] == [STEP]
        assert rows[0][SELECTION_METRIC] == pytest.approx(found[SELECTION_METRIC], nan_ok=True)
    capsys.readouterr()


def test_threads_and_random_numbers_are_left_as_they_were(learnable: Config, tmp_path: Path) -> None:
    """The threads of ``worker`` are not those of this process."""
    step = made_step(learnable)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert SELECTION_METRIC in worker(learnable, tmp_path).before_report(step)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before)
    assert step.model.training


def test_only_those_of_the_plan_are_validated(learnable: Config, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    asked = []
    monkeypatch.setattr(WorkerValidation, "_predict_share", lambda self, step: asked.append(step.step) or [])
    monkeypatch.setattr(
        "mipnet.training.inline_validation.record_validation", lambda *_: {SELECTION_METRIC: 0.5}
    )
    validation, step = worker(learnable, tmp_path), made_step(learnable)
    for step.step in (10, 20, 30, 95):
        validation.before_report(step)
    assert asked == [20, 95]


def test_in_turn_with_one_that_is_validated_beside(learnable: Config, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """No more than one waits when the last step is done, and that one's devices are free."""
    waited = []
    states = iter((Status.PENDING_VALIDATION, Status.VALIDATED, Status.VALIDATION_FAILED))
    last = SimpleNamespace(path="/storage/step-00000010")

    def reported(timeout_s: float) -> list[SimpleNamespace]:
        waited.append(step.step)
        return [SimpleNamespace(checkpoint=last, status=next(states, Status.PENDING_VALIDATION))]

    monkeypatch.setattr("ray.train.get_all_reported_checkpoints", reported)
    monkeypatch.setattr(WorkerValidation, "_predict_share", lambda self, step: [])
    monkeypatch.setattr(
        "mipnet.training.inline_validation.record_validation", lambda *_: {SELECTION_METRIC: 0.5}
    )
    step = made_step(learnable)
    validation = worker(learnable, tmp_path, plan=replace(PLAN, where="beside"))
    found = []
    for step.step in (10, 20, 30, 40, 95):
        found.append(validation.before_report(step))
    assert waited == [20, 20, 40]
    assert found == [{}, {}, {}, {}, {SELECTION_METRIC: 0.5}]
    validation.urgent = lambda seconds: True
    step.step = 60
    validation.before_report(step)
    assert waited == [20, 20, 40], "an urgent checkpoint waits for none"


def records(folder: Path) -> list[dict[str, Any]]:
    return [entry.record for entry in JournalReader(Folder.of(folder)).read()]


def test_a_split_that_cannot_be_read_any_more_does_not_end_the_training(
    learnable: Config, tmp_path: Path
) -> None:
    gone = replace(learnable, data=replace(learnable.data, root=str(tmp_path / "gone")))
    assert worker(gone, tmp_path).before_report(made_step(learnable)) == {}
    (record,) = records(tmp_path)
    assert (record["do"], record["step"]) == ("unvalidated", STEP)
    assert "there are no annotations of split 'train'" in record["cause"]


@pytest.mark.parametrize("order", [1, -1])
def test_weights_that_have_exploded_have_no_occlusion_ap(
    order: int,
    learnable: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if another rank has failed otherwise."""
    failures = [DataError("gone"), DivergedError("heatmaps reach nan")][::order]
    monkeypatch.setattr(WorkerValidation, "_gather", lambda *_: failures)
    found = worker(learnable, tmp_path).before_report(made_step(learnable))
    assert math.isnan(found.pop(SELECTION_METRIC))
    assert not found
    (record,) = records(tmp_path)
    assert record["cause"] == "heatmaps reach nan"


def test_exploded_weights_are_found(learnable: Config, tmp_path: Path) -> None:
    step = made_step(learnable)
    with torch.no_grad():
        for average in step.ema_params:
            average.fill_(math.nan)
    assert math.isnan(worker(learnable, tmp_path).before_report(step)[SELECTION_METRIC])


def test_checkpoints_that_are_not_needed_go_and_those_that_wait_stay(
    learnable: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mipnet.training.recovery.missing_files", lambda _: [])
    training = Folder.of(tmp_path).join(TRAINING_FOLDER)
    scores = {0: None, 10: None, 20: 0.3}  # 0 is due and has failed, 10 is not due
    write_record(
        training,
        {checkpoint_name(s): {} if x is None else {SELECTION_METRIC: x} for s, x in scores.items()},
    )
    for step in scores:
        training.write(f"{checkpoint_name(step)}/model.json", "{}")
    validation = worker(learnable, tmp_path)
    for step, metrics in ((30, {}), (40, {SELECTION_METRIC: 0.5}), (50, {}), (60, {SELECTION_METRIC: 0.4})):
        training.write(f"{checkpoint_name(step)}/model.json", "{}")
        validation.after_report(step, metrics)
    assert checkpoint_names(training) == [checkpoint_name(step) for step in (0, 40, 50, 60)]


def test_an_error_of_ours_is_no_reason_to_stop(
    learnable: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(inline_validation, "evaluated_model", fail)
    assert worker(learnable, tmp_path).before_report(made_step(learnable)) == {}
    assert records(tmp_path)[0]["cause"] == "a bug"


def test_a_validation_is_left_if_a_checkpoint_is_urgent(
    learnable: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver makes up for it after the last step: its checkpoint is kept until then."""
    pruned: list[Any] = []
    monkeypatch.setattr(inline_validation, "prune", lambda *arguments: pruned.append(arguments))
    validation, asked = worker(learnable, tmp_path), list[float]()
    validation.urgent = lambda seconds: bool(asked.append(seconds)) or True
    assert validation.before_report(made_step(learnable)) == {}
    assert len(asked) == 1
    (record,) = (e.record for e in JournalReader(Folder.of(tmp_path)).read())
    assert (record["do"], record["step"]) == ("unvalidated", STEP)
    validation.after_report(STEP, {})
    ((*_, kept),) = pruned
    assert kept == [checkpoint_name(STEP)]


def test_pictures_are_put_into_the_storage_when_the_checkpoint_is(learnable: Config, tmp_path: Path) -> None:
    validation = worker(learnable, tmp_path)
    assert SELECTION_METRIC in validation.before_report(made_step(learnable))
    assert not (tmp_path / "pictures").exists()
    validation.put_pictures()
    (picture,) = (tmp_path / "pictures").iterdir()
    picture.unlink()
    validation.put_pictures()
    assert not list((tmp_path / "pictures").iterdir())
