"""Versions by any name, where they come from, and what is kept with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mipnet.errors import UserError
from mipnet.storage import Folder
from mipnet.tracking.versions import Lineage, open_registry, shown

Register = Callable[..., int]


def test_a_version_goes_by_many_names(register: Register, model_store: Folder) -> None:
    for seed in range(2):
        register("names", seed)
    with open_registry(model_store, "names") as registry:
        first, second = sorted(registry.versions(), key=lambda v: v.number)
        for word in ("1", "models:/names/1", "names-0", first.run_id):
            assert registry.find(word) == first
        for word in ("2", "candidate", "@candidate", "models:/names@candidate"):
            assert registry.find(word) == second
        assert (first.label, second.label) == ("1", "2 candidate")
        assert registry.champion() is None
        with pytest.raises(UserError, match=r"names has no version 'candidat'; did you mean 'candidate'\?"):
            registry.find("candidat")
        with pytest.raises(UserError, match=r"names has no version 'models:/other/1'"):
            registry.find("models:/other/1")


def test_lineage_leads_to_the_run_and_back(register: Register, model_store: Folder) -> None:
    tags = {
        "mlflow.source.git.commit": "abc123-dirty",
        "command": "mipnet train --preset debug",
        "search": "a-search",
        "version.torch": "2.13",
        "version.ray": "2.60",
    }
    register("lineage", tags=tags, occlusion_ap=0.123)
    with open_registry(model_store, "lineage") as registry:
        version = registry.find("1")
        rows = dict(Lineage(registry, version).rows())
        run = registry.client.get_run(version.run_id)
    assert rows["run"].startswith(f"lineage-0 ({version.run_id}), finished ")
    assert (rows["git commit"], rows["search"], rows["experiment"]) == ("abc123-dirty", "a-search", "small")
    assert (rows["steps"], rows["occlusion AP"], rows["AP"]) == ("12", "12.3", "train/gt 12.3")
    assert rows["config"].endswith("/config.yaml")
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
        rows = dict(Lineage(registry, child).rows())
    assert rows["search"] == f"parents-0 ({parent})"
    assert rows["data"] == "set/train digest 0123456789ab (training)"


def test_an_evaluation_is_kept_under_what_it_depends_on(register: Register, model_store: Folder) -> None:
    register("kept")
    with open_registry(model_store, "kept") as registry:
        version = registry.find("1")
        assert registry.kept_evaluation(version, "aaa") is None
        registry.keep_evaluation(version, "aaa", {"boxes": "x"}, {"s/gt/merged/AP": 0.5})
        assert registry.kept_evaluation(version, "aaa") == {"s/gt/merged/AP": 0.5}
        assert registry.kept_evaluation(version, "bbb") is None


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
    assert shown("http://me:secret@host:1/x@y") == "http://host:1/x@y"
