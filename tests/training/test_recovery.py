"""Which checkpoint a training goes on from, and which is the best, after files were damaged."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import Result

from mipnet.config import Config
from mipnet.errors import UserError
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.storage import Folder
from mipnet.training import recovery
from mipnet.training.checkpoint import (
    MANIFEST_FILE,
    MODEL_FILES,
    STATE_FILES,
    checkpoint_name,
    model_from_config,
    save_checkpoint,
)
from mipnet.training.recovery import RECORD_FILE, best_checkpoint, prune, read_record, recover, write_record
from mipnet.training.step import TrainStep
from tests.helpers.networks import tiny

SCORES = {10: 0.2, 20: 0.5, 30: 0.3, 40: 0.4}
"""The best is step 20."""
WEIGHTS = MODEL_FILES[0]


@pytest.fixture(scope="module")
def config() -> Config:
    return tiny(train={"ema": 0.9})


@pytest.fixture(scope="module")
def saved(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training with a checkpoint for each of ``SCORES`` and Ray Train's record of them."""
    root = tmp_path_factory.mktemp("training")
    torch.manual_seed(0)
    step = TrainStep(model_from_config(config), config, 20, torch.device("cpu"), "fp32")
    for number in SCORES:
        with torch.no_grad():
            for tensor in (*step.parameters, *step.ema_params):
                tensor.mul_(1.01)
        step.step = number
        (root / checkpoint_name(number)).mkdir()
        save_checkpoint(root / checkpoint_name(number), step, [{"step": number, "loss": 0.1}])
    record = {checkpoint_name(s): {"step": s, SELECTION_METRIC: value} for s, value in SCORES.items()}
    write_record(Folder.of(root), record)
    return root


@pytest.fixture
def training(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "training"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_all(training: Path, *steps: int) -> None:
    for step in steps:
        for path in (training / checkpoint_name(step)).iterdir():
            cut(path)


def known(training: Path) -> dict[int, float]:
    """What Ray itself reads from the record: step -> score."""
    result = Result.from_path(training)
    assert result.best_checkpoints
    return {int(c.path[-8:]): m.get(SELECTION_METRIC, math.nan) for c, m in result.best_checkpoints}


def newest(training: Path) -> int:
    checkpoint = Result.from_path(training).checkpoint
    assert checkpoint is not None
    return int(checkpoint.path[-8:])


def test_whole_checkpoints_are_left_as_they_are(
    training: Path, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recover(Folder.of(training), config) == recovery.Recovery(40, [])
    assert known(training) == SCORES
    assert newest(training) == 40
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("how", [cut, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("name", STATE_FILES)
def test_training_goes_on_from_the_newest_whole_state(
    how: Callable[[Path], None], name: str, training: Path, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    how(training / checkpoint_name(40) / name)
    found = recover(Folder.of(training), config)
    assert found.step == newest(training) == 30
    (why,) = found.skipped
    assert re.fullmatch(rf"step-00000040 \({re.escape(name)} is (missing|not what was saved: .+)\)", why)
    assert capsys.readouterr().out == f"checkpoints left out: {why}\n"
    assert (training / checkpoint_name(40)).is_dir()
    assert known(training) == {step: SCORES[step] for step in (10, 20, 30)}


def test_all_but_one_are_cut(training: Path, config: Config) -> None:
    cut_all(training, 20, 30, 40)
    found = recover(Folder.of(training), config)
    assert found.step == newest(training) == 10
    assert [clause.partition(" ")[0][-2:] for clause in found.skipped] == ["40", "30", "20"]
    assert "best" not in str(found.skipped)  # it is made again


def test_the_weights_of_the_best_outlive_its_state(training: Path, config: Config) -> None:
    cut(training / checkpoint_name(20) / STATE_FILES[0])
    assert recover(Folder.of(training), config) == recovery.Recovery(40, [])
    assert known(training) == SCORES


@pytest.mark.parametrize("how", [cut, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("step", [20, 40])
def test_weights_are_made_again_from_the_state(
    how: Callable[[Path], None], step: int, training: Path, config: Config, saved: Path
) -> None:
    path = training / checkpoint_name(step) / WEIGHTS
    how(path)
    before = torch.get_rng_state()
    assert recover(Folder.of(training), config) == recovery.Recovery(40, [])
    digests = {
        hashlib.sha256((p / path.relative_to(training)).read_bytes()).digest() for p in (saved, training)
    }
    assert len(digests) == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_an_unplanned_checkpoint_are_made_again_and_its_state_is_kept(
    tmp_path: Path, config: Config
) -> None:
    """The state holds what each rank goes on with."""
    step = TrainStep(model_from_config(config), config, 20, torch.device("cpu"), "fp32")
    checkpoint = tmp_path / checkpoint_name(0)
    checkpoint.mkdir()
    with step.unplanned_checkpoint():
        save_checkpoint(checkpoint, step, [])
    whole = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    cut(checkpoint / WEIGHTS)
    recover(Folder.of(tmp_path), config)
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == whole


def test_a_lost_best_is_named(training: Path, config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    cut_all(training, 20)
    found = recover(Folder.of(training), config)
    assert found.step == 40
    assert "step-00000020" in found.skipped[0]
    assert "the best so far: occlusion AP 50.0" in found.skipped[0]
    assert "the best so far" in capsys.readouterr().out
    assert best_checkpoint(read_record(Folder.of(training))) == checkpoint_name(40)


@pytest.mark.parametrize("how", [cut, Path.unlink, lambda path: path.write_text("[]")])
def test_the_record_is_made_again(how: Callable[[Path], None], training: Path, config: Config) -> None:
    """With the scores that the run knows; Ray validates those of the others that are pending."""
    how(training / RECORD_FILE)
    rows = [{"step": step, SELECTION_METRIC: SCORES[step]} for step in (10, 20, 30)]
    for pending in (10, 40), (10,):
        assert recover(Folder.of(training), config, rows, pending.__contains__).step == newest(training) == 40
        found = known(training)
        assert math.isnan(found.pop(40))
        assert found == {step: SCORES[step] for step in (10, 20, 30)}
        record = json.loads((training / RECORD_FILE).read_text())
        waiting = [checkpoint_name(40)] if 40 in pending else []
        assert [r["checkpoint_dir_name"] for r in record["pending_training_results"]] == waiting


def test_a_folder_that_is_gone_leaves_the_record(training: Path, config: Config) -> None:
    shutil.rmtree(training / checkpoint_name(30))
    assert recover(Folder.of(training), config).step == 40
    assert known(training).keys() == {10, 20, 40}


def test_checkpoints_without_a_manifest_are_read(training: Path, config: Config) -> None:
    """Those of earlier versions, or whose manifest is damaged."""
    for step in SCORES:
        (training / checkpoint_name(step) / MANIFEST_FILE).unlink()
    cut(training / checkpoint_name(40) / STATE_FILES[0])
    cut(training / checkpoint_name(20) / WEIGHTS)
    found = recover(Folder.of(training), config)
    assert found.step == 30
    assert "training.pt cannot be read" in found.skipped[0]
    assert known(training).keys() == {10, 20, 30}


@pytest.mark.parametrize("record", ["whole", "cut", "gone"])
def test_without_a_whole_checkpoint_nothing_begins_anew(record: str, training: Path, config: Config) -> None:
    cut_all(training, *SCORES)
    if record == "cut":
        cut(training / RECORD_FILE)
    elif record == "gone":
        (training / RECORD_FILE).unlink()
    with pytest.raises(
        UserError, match=r"no checkpoint in .+ is whole: step-00000040 .+; put a copy"
    ) as caught:
        recover(Folder.of(training), config)
    assert len(str(caught.value).splitlines()) == 1


def test_a_record_without_checkpoints_is_that_of_a_beginning(training: Path, config: Config) -> None:
    """As Ray Train leaves it when a training fails before its first checkpoint."""
    for step in SCORES:
        shutil.rmtree(training / checkpoint_name(step))
    (training / RECORD_FILE).write_text('{"checkpoint_results": [], "latest_checkpoint_result": null}')
    assert recover(Folder.of(training), config) == recovery.Recovery(0, [])


def test_a_first_checkpoint_that_was_not_completed_is_none(training: Path, config: Config) -> None:
    (training / RECORD_FILE).unlink()
    for step in (20, 30, 40):
        shutil.rmtree(training / checkpoint_name(step))
    (training / checkpoint_name(10) / STATE_FILES[0]).unlink()
    assert recover(Folder.of(training), config).step == 0
    assert recover(Folder.of(training / "nothing"), config) == recovery.Recovery(0, [])


def test_a_storage_that_does_not_answer_is_no_damage(
    training: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Folder, name: str) -> str:
        raise OSError(errno.EIO, "Input/output error", name)

    before = (training / RECORD_FILE).read_bytes()
    monkeypatch.setattr(Folder, "sha256", fail)
    with pytest.raises(UserError, match=r"cannot read .+ \(Input/output error\); the same command goes on"):
        recover(Folder.of(training), config)
    assert (training / RECORD_FILE).read_bytes() == before


def kept(training: Path) -> list[int]:
    return [int(name[-8:]) for name in recovery.checkpoint_names(Folder.of(training))]


def scored(step: int, score: float | None = None) -> dict[str, dict[str, Any]]:
    return {checkpoint_name(step): {"step": step, SELECTION_METRIC: score or SCORES[step]}}


def test_the_newest_two_and_the_best_are_kept(training: Path) -> None:
    prune(Folder.of(training), checkpoint_name(40), scored(40))
    assert kept(training) == [20, 30, 40]


def test_a_new_best_replaces_the_old_one(training: Path) -> None:
    prune(Folder.of(training), checkpoint_name(10), scored(10, 0.9))
    assert kept(training) == [10, 20, 30, 40]  # 20 and later wait for their validation
    prune(Folder.of(training), checkpoint_name(40), scored(40, 0.5))
    assert kept(training) == [30, 40]  # of equals the newest


def test_those_that_wait_for_their_validation_are_kept(training: Path) -> None:
    """And scores that Ray has not recorded yet count."""
    write_record(Folder.of(training), {checkpoint_name(10): {}, checkpoint_name(20): {}})
    prune(Folder.of(training), checkpoint_name(40), scored(20) | scored(40), [checkpoint_name(10)])
    assert kept(training) == [10, 20, 30, 40]
    prune(Folder.of(training), checkpoint_name(40), scored(40))
    assert kept(training) == [30, 40]


def test_failed_validations_do_not_fill_the_disk(training: Path) -> None:
    (training / RECORD_FILE).unlink()
    prune(Folder.of(training), checkpoint_name(40), {})
    assert kept(training) == [30, 40]


def test_one_that_can_be_read_is_not_given_up_for_one_that_cannot(training: Path) -> None:
    cut(training / checkpoint_name(40) / STATE_FILES[0])
    prune(Folder.of(training), checkpoint_name(40), scored(40))
    assert kept(training) == [20, 30, 40]
    cut(training / checkpoint_name(30) / WEIGHTS)
    prune(Folder.of(training), checkpoint_name(40), scored(40))
    assert kept(training) == [10, 20, 30, 40][1:]
    cut(training / RECORD_FILE)
    prune(Folder.of(training), checkpoint_name(40), scored(40))
    assert kept(training) == [20, 30, 40]


@pytest.mark.parametrize("removed", [0, 1, 3])
def test_a_removal_that_was_cut_off_is_finished_in_silence(
    removed: int,
    training: Path,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At the next start; where nothing was lost yet, the checkpoint is there as before."""
    folder = training / checkpoint_name(10)
    remove = Folder.remove

    def die(self: Folder, name: str) -> None:
        if name != checkpoint_name(10):
            return remove(self, name)
        for path in sorted(folder.iterdir())[:removed]:
            path.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            prune(Folder.of(training), checkpoint_name(40), scored(40))
    assert recover(Folder.of(training), config) == recovery.Recovery(40, [])
    assert capsys.readouterr().out == ""
    assert kept(training) == [10, 20, 30, 40][removed > 0 :]
    prune(Folder.of(training), checkpoint_name(40), scored(40))
    assert [path.name for path in sorted(training.iterdir())] == [
        RECORD_FILE,
        *map(checkpoint_name, (20, 30, 40)),
    ]


def test_an_upload_that_was_cut_off_is_named(
    training: Path, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its manifest comes last."""
    for name in (MANIFEST_FILE, STATE_FILES[0]):
        (training / checkpoint_name(40) / name).unlink()
    assert recover(Folder.of(training), config).step == 30
    assert f"checkpoints left out: {checkpoint_name(40)}" in capsys.readouterr().out
    assert kept(training) == [10, 20, 30, 40]


@pytest.mark.parametrize("full", [False, True])
def test_a_checkpoint_is_removed_from_a_full_disk_too(
    full: bool, training: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("the disk is full")

    if full:
        monkeypatch.setattr(Folder, "write", refuse)
    prune(Folder.of(training), checkpoint_name(40), scored(40))
    assert kept(training) == [20, 30, 40]
    assert not list(training.glob(f"{recovery.REMOVAL_MARK}*"))


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_could_not_be_measured_is_never_the_best(value: float | None) -> None:
    metrics = {"step-1": {SELECTION_METRIC: value}, "step-2": {SELECTION_METRIC: 0.0}, "step-3": {}}
    assert best_checkpoint(metrics) == "step-2"
    assert best_checkpoint({"step-1": {SELECTION_METRIC: value}}) == ""
