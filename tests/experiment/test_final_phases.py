"""What the last phase of ``mipnet train`` does when the registry fails, and when we do."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from mipnet.config import preset
from mipnet.errors import UserError
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.experiment import final_phases
from mipnet.run_folder import MODEL_FOLDER, RESULTS_FOLDER, Run, open_run
from mipnet.storage import Folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Trained and evaluated, not registered."""
    made = open_run(Folder.of(tmp_path), preset("debug"), "mine")
    made.folder.write(f"{RESULTS_FOLDER}/table.txt", "AP 50.0")
    made.folder.write(f"{RESULTS_FOLDER}/metrics.json", '{"hard/det5/merged/AP": 0.5}')
    made.folder.write(f"{MODEL_FOLDER}/model.json", '{"extra": {}}')
    made.note(mlflow_run="abc", trained={"steps": 4, "best": {"step": 4, SELECTION_METRIC: 0.5}})
    return made


class S3Error(Exception):
    __module__ = "botocore.exceptions"


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("busy\nfor long"),
        ConnectionError("busy"),
        UserError("busy"),
        S3Error("busy"),
    ],
)
def test_a_registry_that_fails_is_tried_again_by_the_same_command(
    error: Exception, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object, **options: object) -> str:
        raise error

    monkeypatch.setattr(final_phases, "register_model", refuse)
    assert not final_phases.register_phase(run, run.folder)
    assert capsys.readouterr().out == "not registered (busy); the same command tries again\n"
    assert "version" not in run.state

    monkeypatch.setattr(final_phases, "register_model", lambda *arguments, **options: "7")
    assert final_phases.register_phase(run, run.folder)
    assert run.state["version"] == "7"


def test_a_mistake_of_ours_at_the_registry_is_not_hidden(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def err(*arguments: object, **options: object) -> str:
        raise TypeError("a bug")

    monkeypatch.setattr(final_phases, "register_model", err)
    with pytest.raises(TypeError, match="a bug"):
        final_phases.register_phase(run, run.folder)
