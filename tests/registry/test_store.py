"""Versions by any name, where they come from, and what is kept with them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mipnet.errors import UserError
from mipnet.registry.lineage import lineage
from mipnet.registry.register import register_model
from mipnet.registry.store import open_registry, without_password
from mipnet.storage import Folder

Register = Callable[..., int]


def test_a_version_goes_by_many_names(register: Register, model_store: Folder) -> None:
    for seed in range(2):
        register("names", seed)
    with open_registry(model_store, "names") as registry:
        second, first = registry.versions()
        assert (int(first.version), int(second.version)) == (1, 2)
        for word in ("1", "models:/names/1", "names-0", first.run_id):
            assert registry.find(word) == first
        for word in ("2", "candidate", "@candidate", "models:/names@candidate"):
            assert registry.find(word) == second
        assert (first.aliases, second.aliases) == ([], ["candidate"])
        assert registry.champion() is None
        with pytest.raises(UserError, match=r"names has no version 'candidat'; did you mean 'candidate'\?"):
            registry.find("candidat")
        with pytest.raises(UserError, match=r"names has no version 'models:/other/1'"):
            registry.find("models:/other/1")
        with pytest.raises(UserError, match=r"names has no version ''"):
            registry.find("")


def test_the_newest_of_a_runs_versions_is_meant(register: Register, model_store: Folder) -> None:
    register("twice")
    with open_registry(model_store, "twice") as registry:
        first = registry.find("1")
        registry.client.create_model_version("twice", "models:/twice/1", first.run_id)
        assert int(registry.find(first.run_id).version) == 2


def test_a_run_that_has_trained_on_gets_another_version(
    register: Register, model_store: Folder, small_models: list[Path]
) -> None:
    register("grown")
    with open_registry(model_store, "grown") as registry:
        run = str(registry.find("1").run_id)
    again = partial(register_model, model_store, run, small_models[0], "grown")
    assert (again(), again(earlier=["1"]), again(earlier=["1"])) == ("1", "2", "2")
    with open_registry(model_store, "grown") as registry:
        assert int(registry.find("candidate").version) == 2


def test_one_of_more_models_than_mlflow_lists_at_a_time_is_found(
    register: Register, model_store: Folder, tmp_path: Path
) -> None:
    register("zebra")
    from mlflow import MlflowClient

    client = MlflowClient()
    for number in range(100):
        client.create_registered_model(f"many-{number:03}")
    assert "zebra" not in [model.name for model in client.search_registered_models()]
    with open_registry(model_store, "zebra") as registry:
        assert int(registry.find("candidate").version) == 1
    for number in range(100):
        client.delete_registered_model(f"many-{number:03}")


def test_lineage_leads_to_the_run_and_back(register: Register, model_store: Folder) -> None:
    tags = {
        "mlflow.source.git.commit": "abc123-dirty",
        "command": "mipnet train --preset debug",
        "search": "a-search",
        "version.torch": "2.13",
        "version.ray": "2.60",
    }
    register("lineage", tags=tags, occlusion_ap=0.123)
    model_store.write("runs/lineage-0/model/model-card.md", "# lineage-0")
    with open_registry(model_store, "lineage") as registry:
        version = registry.find("1")
        rows = dict(lineage(registry, version))
        run = registry.client.get_run(version.run_id)
    assert rows["run"].startswith(f"lineage-0 ({version.run_id}), finished ")
    assert (rows["git commit"], rows["search"], rows["experiment"]) == ("abc123-dirty", "a-search", "small")
    assert (rows["steps"], rows["occlusion AP"], rows["AP"]) == ("12", "12.3", "train/gt 12.3")
    assert rows["config"].endswith("/config.yaml")
    assert rows["model card"] == model_store.path("runs/lineage-0/model/model-card.md")
    assert version.description == "version 1"
    assert rows["packages"] == "ray 2.60, torch 2.13"
    assert rows["alias"] == "candidate"
    assert run.data.tags["registered"] == "models:/lineage/1"
    assert (version.tags["search"], version.tags["mlflow.source.git.commit"]) == ("a-search", "abc123-dirty")


def test_lineage_names_the_search_and_the_data(register: Register, model_store: Folder) -> None:
    from mipnet.tracking.datasets import dataset_inputs

    register("parents", 0)
    with open_registry(model_store, "parents") as registry:
        parent = registry.find("1").run_id
    register("parents", 1, {"mlflow.parentRunId": parent})
    with open_registry(model_store, "parents") as registry:
        child = registry.find("2")
        assert registry.client.get_run(parent).data.tags["registered"] == "models:/parents/2"
        dataset = {
            "name": "set/train",
            "digest": "0123456789ab",
            "source_type": "local",
            "source": "{}",
            "schema": "{}",
            "profile": "{}",
            "context": "training",
        }
        registry.client.log_inputs(child.run_id, dataset_inputs([dataset]))
        rows = dict(lineage(registry, child))
    assert rows["search"] == f"parents-0 ({parent})"
    assert rows["data"] == "set/train digest 0123456789ab (training)"


def test_a_version_whose_run_is_gone_still_has_a_lineage(register: Register, model_store: Folder) -> None:
    register("gone")
    with open_registry(model_store, "gone") as registry:
        version = registry.find("1")
        version._run_id = "0123"  # as after mlflow gc
        assert registry.run_of(version) is None
        rows = dict(lineage(registry, version))
        assert rows["run"] == "0123 (gone)"
        assert rows["weights"] == "models:/gone/1"
        assert registry.load_dict(version, "evaluations/x.json") is None
        assert registry.log_dict(version, "evaluations/x.json", {}) == ""


def test_what_is_kept_with_a_version_is_read_back(register: Register, model_store: Folder) -> None:
    register("kept")
    with open_registry(model_store, "kept") as registry:
        version = registry.find("1")
        assert registry.load_dict(version, "evaluations/a.json") is None
        where = registry.log_dict(version, "evaluations/a.json", {"metrics": {"s/gt/merged/AP": 0.5}})
        assert where == f"runs:/{version.run_id}/evaluations/a.json"
        assert registry.load_dict(version, "evaluations/a.json") == {"metrics": {"s/gt/merged/AP": 0.5}}
        assert registry.load_dict(version, "evaluations/b.json") is None


def test_what_is_not_there_is_one_line(
    register: Register, model_store: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    nothing = Folder.of(tmp_path / "nothing")
    with (
        pytest.raises(UserError, match=r"no models are registered in .*nothing"),
        open_registry(nothing, "m"),
    ):
        pass
    assert not (tmp_path / "nothing").exists()
    register("there")
    with (
        pytest.raises(UserError, match=r"has no registered model 'ther'; did you mean 'there'\?"),
        open_registry(model_store, "ther"),
    ):
        pass
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9/x")
    with pytest.raises(UserError, match=r"no MLflow server answers") as caught, open_registry(nothing, "m"):
        pass
    assert "secret" not in str(caught.value)
    assert without_password("http://me:secret@host:1/x@y") == "http://host:1/x@y"
