"""A model by the name of its run, its folder or its address."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mipnet.config import Config
from mipnet.errors import UserError
from mipnet.registry.resolve import model_config, resolve_model
from mipnet.registry.store import open_registry
from mipnet.storage import Folder

Register = Callable[..., int]


@pytest.fixture
def storage(small_models: list[Path], tmp_path: Path) -> Folder:
    """With a run that has weights and one that has none."""
    shutil.copytree(small_models[0], tmp_path / "runs" / "done" / "model")
    (tmp_path / "runs" / "begun").mkdir()
    return Folder.of(tmp_path)


def test_a_run_and_folders_are_the_same_model(storage: Folder, small_config: Config) -> None:
    place = storage.join("runs/done")
    for uri in ("done", place.uri, place.join("model").uri):
        assert resolve_model(uri, storage) == place.join("model")
    assert model_config(resolve_model("done", storage)) == small_config


def test_runs_and_folders_need_neither_mlflow_nor_ray(storage: Folder) -> None:
    program = (
        "import sys\n"
        "import mipnet.registry.judge\n"
        "from mipnet.registry.resolve import model_config, resolve_model\n"
        "from mipnet.storage import Folder\n"
        "storage = Folder.of(sys.argv[1])\n"
        "for uri in ('done', storage.path('runs/done')):\n"
        "    model_config(resolve_model(uri, storage))\n"
        "print({'mlflow', 'ray', 'torch'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, storage.uri], text=True, capture_output=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_a_registered_model_is_fetched(
    register: Register, model_store: Folder, small_models: list[Path]
) -> None:
    version = register("fetched")
    for uri in ("models:/fetched@candidate", f"models:/fetched/{version}"):
        found = resolve_model(uri, model_store)
        for name in ("model.json", "weights.safetensors"):
            assert found.read(name) == (small_models[0] / name).read_bytes()


def test_a_model_of_somebody_else_is_refused(register: Register, model_store: Folder) -> None:
    register("ours")
    with open_registry(model_store, "ours") as registry:
        run_id = registry.find("1").run_id
        registry.client.log_text(run_id, "no model", "notes/readme.txt")
    with pytest.raises(UserError, match=r"runs:/.*/notes was not registered by mipnet; choose a version"):
        resolve_model(f"runs:/{run_id}/notes", model_store)


def test_no_password_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(UserError, match=r"no MLflow server answers at http://127.0.0.1:9 ") as caught:
        resolve_model("models:/m/1", Folder.of(tmp_path))
    assert "secret" not in str(caught.value)
