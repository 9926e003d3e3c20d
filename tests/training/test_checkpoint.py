"""Checkpoint folders: whole, evaluated, and refused in one line when they are broken."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from mipnet.config import Config, from_dict, to_dict
from mipnet.config.old_names import new_key
from mipnet.errors import UserError
from mipnet.models.weights import load_model
from mipnet.training.checkpoint import (
    MANIFEST_FILE,
    TRAINING_STATE_FILE,
    checkpoint_name,
    load_checkpoint,
    model_from_config,
    save_checkpoint,
    step_from_path,
)
from mipnet.training.step import TrainStep
from tests.helpers.networks import tiny

HISTORY = [{"step": 2, "loss": 0.5}, {"step": 4, "loss": float("nan")}]


def averaging(**sections: Any) -> Config:
    return tiny(**{"train": {"ema": 0.9}, **sections})


def make(config: Config, seed: int = 0) -> TrainStep:
    torch.manual_seed(seed)
    return TrainStep(model_from_config(config), config, 20, torch.device("cpu"), "fp32")


def train(step: TrainStep, steps: int) -> None:
    for number in range(steps):
        g = torch.Generator().manual_seed(number)
        images = torch.randint(0, 256, (2, 48, 32, 3), generator=g, dtype=torch.uint8)
        step(images, torch.rand(2, step.config.model.instances, 17, 3, generator=g) * 30)


@pytest.fixture(scope="module")
def trained() -> TrainStep:
    step = make(averaging())
    train(step, 2)
    return step


@pytest.fixture
def saved(trained: TrainStep, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path, trained, HISTORY)
    return tmp_path


def test_round_trip(trained: TrainStep, saved: Path) -> None:
    other = make(averaging(), seed=5)
    history = load_checkpoint(saved, other)
    assert history[0] == HISTORY[0]
    assert history[1]["loss"] != history[1]["loss"]  # nan stays nan
    assert other.step == 2
    a, b = trained.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert all(torch.equal(x, y) for x, y in zip(trained.ema_params, other.ema_params, strict=True))
    moments = zip(trained.optimizer.state.values(), other.optimizer.state.values(), strict=True)
    assert all(torch.equal(x[k], y[k]) for x, y in moments for k in x)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_weights_beside_it_are_those_to_evaluate(ema: float, tmp_path: Path) -> None:
    config = tiny(train={"ema": ema})
    step = make(config)
    train(step, 2)
    save_checkpoint(tmp_path, step, [])
    model, extra = load_model(tmp_path)
    state = model.state_dict()
    average = dict(zip([n for n, _ in step.model.named_parameters()], step.ema_params, strict=False))
    for name, tensor in step.model.state_dict().items():
        assert torch.equal(state[name], average.get(name, tensor)), name
    assert len(average) == (len(step.parameters) if ema else 0)
    assert from_dict(extra["config"]) == config


def test_saving_leaves_the_training_as_it_is(trained: TrainStep, tmp_path: Path) -> None:
    before = {k: v.clone() for k, v in trained.model.state_dict().items()}
    storage = trained.bn_buffers.untyped_storage().data_ptr()
    save_checkpoint(tmp_path, trained, HISTORY)
    assert all(torch.equal(v, before[k]) for k, v in trained.model.state_dict().items())
    assert trained.model.training
    views = [b for n, b in trained.model.named_buffers() if n.endswith("running_mean")]
    assert all(v.untyped_storage().data_ptr() == storage for v in views)


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def another_network(path: Path) -> None:
    other = make(averaging(model={"width": 12}))
    torch.save(other.state_dict(), path)


def without(key: str) -> Any:
    def change(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        del state[key]
        torch.save(state, path)

    return change


BREAK = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"this is not a checkpoint"),
    "truncated": truncate,
    "code": lambda path: path.write_bytes(pickle.dumps(Code())),
    "code in torch's format": lambda path: torch.save({"step": Code()}, path),
    "a list": lambda path: torch.save([1, 2], path),
    "another network": another_network,
    "no step": without("step"),
    "no optimizer": without("optimizer"),
}


@pytest.mark.parametrize("kind", BREAK)
def test_what_cannot_be_continued_is_a_user_error_in_one_line(
    kind: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (saved / MANIFEST_FILE).unlink()  # as in earlier versions: the content has to show it
    BREAK[kind](saved / TRAINING_STATE_FILE)
    monkeypatch.chdir(saved)
    hints = "start another run with --new|the same command goes on from a whole one"
    with pytest.raises(UserError, match=rf"cannot continue from .+; ({hints})$") as caught:
        load_checkpoint(saved, make(averaging()))
    message = str(caught.value)
    assert str(saved) in message
    assert len(message.splitlines()) == 1
    assert "()" not in message  # it says why
    assert not (saved / "executed").exists()


def test_another_state_than_the_manifests_is_refused(saved: Path) -> None:
    state = torch.load(saved / TRAINING_STATE_FILE, weights_only=True)
    torch.save({**state, "step": 3}, saved / TRAINING_STATE_FILE)
    with pytest.raises(UserError, match="not what was saved: another SHA-256"):
        load_checkpoint(saved, make(averaging()))


def test_a_checkpoint_without_average_does_not_continue_a_run_with_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, make(tiny(train={"ema": 0.0})), [])
    with pytest.raises(UserError, match="cannot continue"):
        load_checkpoint(tmp_path, make(averaging()))


def test_folder_names_sort_and_tell_the_step() -> None:
    steps = [0, 1, 999, 12_345, 99_999_999, 123_456_789]
    assert [step_from_path(checkpoint_name(s)) for s in steps] == steps
    assert step_from_path(f"s3://bucket/step-1/runs/{checkpoint_name(7)}/") == 7
    names = [checkpoint_name(s) for s in steps[:-1]]
    assert sorted(names) == names


@pytest.mark.parametrize("backbone", ["hrnet", "simplebaseline"])
def test_the_network_is_the_one_configured(backbone: str) -> None:
    changes = {"backbone": backbone, "instances": 3, "mimb_stages": [2], "reduction": 2}
    config = from_dict({"model": changes, "input": {"width": 64, "height": 96}}, averaging())
    model = model_from_config(config)
    assert model.architecture is not None
    expected = to_dict(config)["model"]
    for key, value in model.architecture.items():
        assert value == (17 if key == "num_keypoints" else expected[new_key("model", key)]), key
    assert (model.instances, model.mimb_stages) == (3, (2,))
    json.dumps(model.architecture)
    crowdpose = dataclasses.replace(config, data=dataclasses.replace(config.data, skeleton="crowdpose14"))
    assert model_from_config(crowdpose).architecture["num_keypoints"] == 14  # type: ignore[index]
