"""``mipnet registry``: what is promoted, what is refused, and what is remembered of both."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mipnet.cli.main import main
from mipnet.cli.registry_options import tolerance_of
from mipnet.config import Config
from mipnet.errors import ConfigError
from mipnet.evaluation.protocols import METRIC_NAMES
from mipnet.experiment.arguments import copy_to_storage
from mipnet.experiment.comparison import evaluation_key, evaluation_path
from mipnet.experiment.datasets import open_splits
from mipnet.ray_runtime import session as session_module
from mipnet.registry.champion import champions
from mipnet.registry.store import open_registry, version_number
from mipnet.storage import Folder
from tests.helpers.registering import own_truth

Register = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was evaluated before must not start Ray again."""

    def refuse(*args: object) -> None:
        raise AssertionError("Ray is started")

    monkeypatch.setattr(session_module, "connect", refuse)


@pytest.fixture
def evaluated(register: Register, model_store: Folder, small_config: Config) -> Callable[..., str]:
    """Registers versions that were evaluated already: ``evaluated(name, (occlusion AP, easy AP), ...)``."""

    def make(name: str, *figures: tuple[float, float]) -> str:
        for overlap, easy in figures:
            number = register(name, occlusion_ap=overlap)
            values = {**dict.fromkeys(METRIC_NAMES["coco"], 0.5), "AP": easy, "AP_overlap": overlap}
            with open_registry(model_store, name) as registry:
                version = registry.find(str(number))
                metrics = {f"train/gt/merged/{metric}": value for metric, value in values.items()}
                path = evaluation_path(version, about_evaluation(small_config))
                registry.log_dict(version, path, {"metrics": metrics})
        return name

    return make


def about_evaluation(config: Config) -> dict:
    data = Folder.of(config.data.root)
    return evaluation_key(config, data, open_splits(config, data, config.data.evaluate))


def registry_command(store: Folder, name: str, *argv: str) -> int:
    return main(["registry", *argv, "--name", name, "--storage", store.uri])


def champion(store: Folder, name: str) -> int:
    with open_registry(store, name) as registry:
        return version_number(registry.champion())


def test_the_first_champion_needs_only_an_evaluation(
    evaluated: Callable[..., str], model_store: Folder, capsys: Capture
) -> None:
    name = evaluated("first", (0.0, 0.0))
    assert registry_command(model_store, name, "promote") == 0
    said = capsys.readouterr().out
    assert "occlusion AP (AP_overlap of train in gt boxes): 0.0" in said
    assert f"champion  {name} version 1\nbefore    none\n" in said
    assert champion(model_store, name) == 1
    assert registry_command(model_store, name, "promote", "1") == 0
    assert "is the champion already" in capsys.readouterr().out


def test_a_worse_one_is_refused_with_the_table_and_forced_if_asked(
    evaluated: Callable[..., str], model_store: Folder, capsys: Capture
) -> None:
    name = evaluated("worse", (0.30, 0.70), (0.20, 0.72))
    assert registry_command(model_store, name, "promote", "1") == 0
    capsys.readouterr()
    argv = ("promote", "--tolerance", "1")
    assert registry_command(model_store, name, *argv) == 1
    said = capsys.readouterr()
    assert said.err == (
        "mipnet: version 2 is not promoted: occlusion AP falls by 10.00 (tolerance 1.00); "
        "--tolerance allows more, --force promotes it all the same\n"
    )
    lines = [line.split() for line in said.out.splitlines()]
    assert ["train", "gt", "1", "champion", "70.0", *["50.0"] * 6, "30.0"] in lines
    assert ["train", "gt", "difference", "+2.0", *["+0.0"] * 6, "-10.0"] in lines
    assert champion(model_store, name) == 1
    with open_registry(model_store, name) as registry:
        tags = registry.find("2").tags
        assert (tags["promotion"], tags["promotion.against"]) == ("refused", "1")
        (file,) = registry.client.list_artifacts(registry.find("2").run_id, "promotion")
        assert tags["promotion.record"].endswith(file.path)
        assert [champion.version for champion in champions(registry)] == [1]
    assert registry_command(model_store, name, *argv, "--force") == 0
    said = capsys.readouterr()
    assert "forced although occlusion AP falls by 10.00" in said.out
    assert champion(model_store, name) == 2
    assert registry_command(model_store, name, "show") == 0
    assert "\npromotion     forced against 1, " in capsys.readouterr().out


def test_a_better_one_replaces_it_and_rollback_brings_it_back(
    evaluated: Callable[..., str], model_store: Folder, capsys: Capture
) -> None:
    name = evaluated("better", (0.30, 0.70), (0.31, 0.71))
    assert registry_command(model_store, name, "promote", "1") == 0
    assert registry_command(model_store, name, "promote", "candidate", "--tolerance", "0") == 0
    assert "version 1; mipnet registry rollback goes back to it" in capsys.readouterr().out
    assert registry_command(model_store, name, "rollback") == 0
    assert capsys.readouterr().out == f"champion  {name} version 1\nbefore    version 2\n"
    assert registry_command(model_store, name, "rollback") == 1
    assert "has no earlier champion" in capsys.readouterr().err
    assert registry_command(model_store, name, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["2", "candidate"]
    assert lines[1].split()[-2:] == ["31.0", "accepted"]
    assert lines[2].split()[:2] == ["1", "champion"]
    assert lines[3:5] == ["", "champions"]
    (only,) = lines[5:]
    assert "Z  1 (rolled back from 2) by " in only


def test_list_tells_the_line_of_champions(
    evaluated: Callable[..., str], model_store: Folder, capsys: Capture
) -> None:
    name = evaluated("line", (0.30, 0.70), (0.31, 0.71), (0.20, 0.71))
    for argv in (("1",), ("2",), ("3", "--tolerance", "1", "--force")):
        assert registry_command(model_store, name, "promote", *argv) == 0
    with open_registry(model_store, name) as registry:
        registry.client.delete_model_version(name, "2")
    capsys.readouterr()
    assert registry_command(model_store, name, "list") == 0
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert lines[0] == "champions"
    assert [line.partition(" by ")[0].split(maxsplit=1)[1] for line in lines[1:]] == [
        "1 (accepted)",
        "2 (accepted)",
        "3 (forced)",
    ]
    assert registry_command(model_store, name, "rollback") == 0
    assert capsys.readouterr().out == (
        f"version 2 was deleted and is passed over\nchampion  {name} version 1\nbefore    version 3\n"
    )


def test_compare_decides_nothing(evaluated: Callable[..., str], model_store: Folder, capsys: Capture) -> None:
    name = evaluated("compared", (0.30, 0.70), (0.20, 0.70))
    assert registry_command(model_store, name, "compare", "1", "2", "--tolerance", "2") == 0
    said = capsys.readouterr().out
    assert "occlusion AP (AP_overlap of train in gt boxes): 30.0 -> 20.0 (-10.00, may fall by 2.00" in said
    assert "version 2 would be refused: occlusion AP falls by 10.00" in said
    assert registry_command(model_store, name, "compare", "2", "1") == 0
    assert "version 1 may replace it" in capsys.readouterr().out
    assert registry_command(model_store, name, "compare", "1", "1") == 2
    assert registry_command(model_store, name, "compare") == 2  # there is no champion
    assert champion(model_store, name) == 0
    with open_registry(model_store, name) as registry:
        assert not any("promotion" in tag for v in registry.versions() for tag in v.tags)


def test_a_champion_that_changes_during_the_comparison_stops_the_promotion(
    evaluated: Callable[..., str], model_store: Folder, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mipnet.cli import registry_promote
    from mipnet.registry.store import CHAMPION

    name = evaluated("race", (0.30, 0.70), (0.31, 0.70), (0.32, 0.70))
    assert registry_command(model_store, name, "promote", "1") == 0
    compare = registry_promote.compare_versions

    def meanwhile(registry, *args, **options):  # type: ignore[no-untyped-def]
        registry.client.set_registered_model_alias(name, CHAMPION, "2")
        return compare(registry, *args, **options)

    monkeypatch.setattr(registry_promote, "compare_versions", meanwhile)
    assert registry_command(model_store, name, "promote", "3") == 1
    assert "the champion moved from version 1 to 2 in the meantime" in capsys.readouterr().err
    assert champion(model_store, name) == 2


def test_an_evaluation_holds_for_its_data_and_settings_only(small_config: Config, tmp_path: Path) -> None:
    about = about_evaluation(small_config)
    bigger = replace(small_config.evaluation, batch_size=99)
    assert about_evaluation(replace(small_config, evaluation=bigger)) == about
    other = replace(small_config.evaluation, discount=0.1)
    assert about_evaluation(replace(small_config, evaluation=other)) != about
    root = Path(shutil.copytree(small_config.data.root, tmp_path / "data"))
    path = root / "annotations" / "person_keypoints_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][0] += 1
    path.write_text(json.dumps(content))
    moved = replace(small_config, data=replace(small_config.data, root=str(root)))
    changed = about_evaluation(moved)
    assert changed["boxes"] != about["boxes"]
    assert list(changed["annotations"].values()) != list(about["annotations"].values())


def test_evaluations_lie_under_what_they_depend_on() -> None:
    class Fourth:
        version = "4"

    found = [evaluation_path(Fourth(), {"b": value, "a": 1}) for value in (1, 2)]
    assert evaluation_path(Fourth(), {"a": 1, "b": 1}) == found[0] != found[1]
    # Where commit 3205fb3 kept it: what it has evaluated is not evaluated again.
    digest = hashlib.sha256(b'{"a": 1, "b": 1}').hexdigest()[:12]
    assert found[0] == f"evaluations/version-4-{digest}.json"


def test_a_model_from_elsewhere_is_copied_to_where_every_node_sees_it(
    small_models: list[Path], tmp_path: Path
) -> None:
    storage, model = Folder.of(tmp_path / "storage"), Folder.of(small_models[0])
    copy = copy_to_storage(model, storage)
    assert copy.uri.startswith(storage.uri)
    assert copy.read("weights.safetensors") == model.read("weights.safetensors")
    assert copy_to_storage(model, storage) == copy
    assert copy_to_storage(copy, storage) == copy  # it is there already


def test_a_tolerance_that_is_none() -> None:
    assert tolerance_of("") is None
    assert tolerance_of("0.5") == 0.5
    for text in ("x", "-1", "nan", "101"):
        with pytest.raises(ConfigError, match="--tolerance"):
            tolerance_of(text)


def test_what_cannot_be_found_is_one_line(
    evaluated: Callable[..., str], model_store: Folder, tmp_path: Path, capsys: Capture
) -> None:
    name = evaluated("found", (0.3, 0.7))
    for argv in (("show", "7"), ("promote", "champion"), ("compare", "1", "9")):
        assert registry_command(model_store, name, *argv) == 2
        assert f"{name} has no version" in capsys.readouterr().err
    for verb in ("list", "show", "promote", "compare", "rollback"):
        assert registry_command(Folder.of(tmp_path), name, verb) == 2
        assert "no models are registered" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.slow
def test_versions_are_evaluated_once_and_the_worse_is_refused(
    ray_session: None,
    register: Register,
    model_store: Folder,
    small_models: list[Path],
    small_coco: Folder,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    """On data whose truth is what the first network says: it is good there, any other is not."""
    import ray

    root = own_truth(small_models[0], small_coco, tmp_path / "data")
    for seed in (0, 1):
        register("evaluated", seed)
    address = ray.get_runtime_context().gcs_address
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"RAY_ADDRESS": address}

    def command(*argv: str) -> subprocess.CompletedProcess[str]:
        words = ["registry", *argv, "--data", str(root), "--name", "evaluated", "--storage", model_store.uri]
        return subprocess.run(
            [sys.executable, "-m", "mipnet", *words], env=env, text=True, capture_output=True, timeout=600
        )

    done = command("promote", "1")
    assert done.returncode == 0, done.stderr
    done = command("promote")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "version 1: evaluated before" in done.stdout
    assert "version 2 is not promoted: occlusion AP falls by " in done.stderr
    assert "and easy AP falls by " in done.stderr
    assert "difference" in done.stdout
    capsys.readouterr()
    again = ("promote", "2", "--data", str(root))  # in this process, without Ray
    assert registry_command(model_store, "evaluated", *again) == 1
    assert capsys.readouterr().out.count("evaluated before") == 2
    assert champion(model_store, "evaluated") == 1
