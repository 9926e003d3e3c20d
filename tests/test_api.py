"""``import mipnet``: what it offers, what it costs, and what it leaves alone."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mipnet
from mipnet.cli.shared_options import read_flags
from mipnet.experiment import training_run
from mipnet.run_folder import Run, default_name
from mipnet.storage import Folder


def run(code: str, *argv: str) -> Any:
    """What a fresh interpreter prints last, as JSON."""
    done = subprocess.run([sys.executable, "-c", code, *argv], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_all_names_are_there_for_people_editors_and_type_checkers() -> None:
    for name in mipnet.__all__:
        assert getattr(mipnet, name).__doc__, name
    assert set(mipnet.__all__) <= set(dir(mipnet))
    blocks = [n for n in ast.walk(ast.parse(inspect.getsource(mipnet))) if isinstance(n, ast.If)]
    seen = [a.name for node in blocks[0].body for a in node.names]  # type: ignore[attr-defined]
    assert sorted(seen) == mipnet.__all__
    assert Path(mipnet.__file__).with_name("py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mipnet.nothing


def test_the_import_costs_nothing() -> None:
    code = "import json, sys; before = set(sys.modules); import mipnet; "
    code += "print(json.dumps(sorted(set(sys.modules) - before)))"
    loaded = set(run(code))
    assert {name for name in loaded if name.startswith("mipnet")} == {"mipnet"}
    assert {name.partition(".")[0] for name in loaded} <= sys.stdlib_module_names | {"mipnet"}


PREDICT = """
import json, pkgutil, sys
import numpy as np
import mipnet, mipnet.evaluation, mipnet.models
for name in mipnet.__all__:
    getattr(mipnet, name)
for package in (mipnet.evaluation, mipnet.models):
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        __import__(found.name)
poses = mipnet.load_predictor(sys.argv[1])(np.zeros((40, 30, 3), np.uint8))
print(json.dumps([len(poses), "ray" in sys.modules, "mlflow" in sys.modules]))
"""


def test_predictor_models_and_evaluation_import_neither_ray_nor_mlflow(small_models: list[Path]) -> None:
    count, ray, mlflow = run(PREDICT, str(small_models[0]))
    assert count
    assert not ray
    assert not mlflow


def test_each_storage_has_a_registry_of_its_own(
    register: Any, model_store: Folder, small_models: list[Path], tmp_path: Path
) -> None:
    register("here", 1)
    with pytest.raises(mipnet.UserError, match="here"):
        mipnet.load_predictor("models:/here@candidate", storage=tmp_path)
    predictor = mipnet.load_predictor("models:/here@candidate", "cpu", model_store.uri)
    picture = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    wanted = mipnet.load_predictor(small_models[1], "cpu")(picture)
    np.testing.assert_allclose(predictor(picture).keypoints, wanted.keypoints, atol=1e-3)


@pytest.mark.parametrize("model", ["nobody", "no/where", "models:/nothing@candidate"])
def test_a_model_that_is_not_there_is_one_line(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(mipnet.UserError, match="model") as caught:
        mipnet.load_predictor(model, storage=tmp_path)
    assert "\n" not in str(caught.value)


def test_settings_from_python_name_the_run_of_the_same_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a preset has 70 where a flag makes 70.0; and what cannot work is refused as a flag is."""
    asked: list[mipnet.Config] = []

    def complete(config: mipnet.Config, storage: Folder, *_: object, **__: object) -> Run:
        asked.append(config)
        return Run("run", storage, config, {"finished": True, "owed": True})

    monkeypatch.setattr(training_run, "complete_run", complete)
    config = replace(mipnet.preset("debug"), train=replace(mipnet.preset("debug").train, epochs=6))
    with pytest.raises(mipnet.UserError, match="MLflow lacks a part of it"):
        mipnet.train(config, storage=tmp_path)
    flags = read_flags("train", ["--preset", "debug", "--epochs", "6"])[1].config
    assert default_name(asked[0]) == default_name(flags)
    bad = replace(config, train=replace(config.train, epochs=0))
    with pytest.raises(mipnet.UserError, match=r"train\.epochs"):
        mipnet.train(bad, storage=tmp_path)
