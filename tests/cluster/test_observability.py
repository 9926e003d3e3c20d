"""What Prometheus and Grafana are given, and a real Prometheus that watches a real training."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from mipnet.training.gauges import DESCRIPTIONS
from tests.helpers.servers import free_port, opener, process, ray_head, responds

FOLDER = Path(__file__).parents[2] / "cluster" / "observability"
RUN = "watched"


def panels() -> dict[str, str]:
    """Title of each panel -> its query, for all runs."""
    dashboard = json.loads((FOLDER / "grafana" / "mipnet.json").read_text())
    return {
        panel["title"]: target["expr"].replace("$run", ".*")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }


def test_the_dashboard_shows_every_gauge_and_no_other():
    named = {name for query in panels().values() for name in re.findall(r"ray_mipnet_(\w+)", query)}
    assert named == DESCRIPTIONS.keys()


def test_the_dashboard_finds_its_data_source():
    (source,) = yaml.safe_load((FOLDER / "grafana" / "datasources.yaml").read_text())["datasources"]
    dashboard = json.loads((FOLDER / "grafana" / "mipnet.json").read_text())
    uses = [*dashboard["panels"], *dashboard["templating"]["list"]]
    assert {(use["datasource"]["type"], use["datasource"]["uid"]) for use in uses} == {
        (source["type"], source["uid"])
    }


def test_prometheus_grafana_and_compose_mean_the_same_files():
    compose = yaml.safe_load((FOLDER.parent / "mlflow" / "compose.yaml").read_text())["services"]
    inside = {
        parts[1]: FOLDER.parent / "mlflow" / parts[0]
        for name in ("prometheus", "grafana")
        for parts in (volume.split(":") for volume in compose[name]["volumes"])
        if parts[0].startswith(".")
    }
    assert all(path.resolve().is_relative_to(FOLDER) and path.is_file() for path in inside.values())
    flags = dict(flag.split("=", 1) for flag in compose["prometheus"]["command"])
    assert flags["--config.file"] in inside
    (source,) = yaml.safe_load((FOLDER / "grafana" / "datasources.yaml").read_text())["datasources"]
    assert source["url"] == f"http://{flags['--web.listen-address']}"
    (provider,) = yaml.safe_load((FOLDER / "grafana" / "dashboards.yaml").read_text())["providers"]
    assert f"{provider['options']['path']}/mipnet.json" in inside
    (job,) = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]
    (discovery,) = job["file_sd_configs"][0]["files"]
    assert any(discovery.startswith(volume.split(":")[1]) for volume in compose["prometheus"]["volumes"])


def ask(prometheus: str, query: str) -> list[dict[str, Any]]:
    """The series that a query finds now."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with opener().open(url) as answer:
        return list(json.load(answer)["data"]["result"])


@pytest.mark.drill
def test_every_panel_answers_while_a_training_runs(tmp_path: Path) -> None:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("there is no prometheus here (Debian's package of that name)")
    with TemporaryDirectory(prefix="ray-") as folder:
        flags = [f"--metrics-export-port={free_port()}", "--include-dashboard=true"]
        flags += [f"--dashboard-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
        with ray_head(Path(folder), *flags) as env:
            config = (FOLDER / "prometheus.yaml").read_text()
            (tmp_path / "prometheus.yaml").write_text(config.replace("/tmp/ray/", f"{folder}/t/"))
            address = f"127.0.0.1:{free_port()}"
            words = [program, f"--config.file={tmp_path}/prometheus.yaml", f"--web.listen-address={address}"]
            words += [f"--storage.tsdb.path={tmp_path}/series"]
            ready = lambda: responds(f"http://{address}/-/ready")  # noqa: E731
            with process(words, tmp_path / "prometheus.log", ready):
                watch(lambda query: ask(f"http://{address}", query), env, tmp_path)


def watch(query: Callable[[str], list[dict[str, Any]]], env: dict[str, str], folder: Path) -> None:
    """Train until every panel has answered with data; the answers make sense."""
    words = [sys.executable, "-m", "mipnet", "train", "--preset", "debug", "--name", RUN, "--epochs", "400"]
    words += ["--train.checkpoint-steps", "40", "--storage", str(folder / "storage")]
    words += ["--scenes.easy=0", "--scenes.medium=0", "--scenes.hard=8", "--scenes.validation=4"]
    log = folder / "train.log"
    answers: dict[str, list[dict[str, Any]]] = {}
    with log.open("w") as said:
        training = subprocess.Popen(words, env=env, stdout=said, stderr=said)
        try:
            deadline = time.monotonic() + 800
            while missing := panels().keys() - answers.keys():
                assert training.poll() is None, log.read_text()
                assert time.monotonic() < deadline, f"{missing} never answered: {log.read_text()}"
                for title in missing:
                    if found := query(panels()[title]):
                        answers[title] = found
                time.sleep(1)
            lag = query(panels()["Validation lag"])
        finally:
            training.terminate()
            training.wait(120)
    by_run = {title: found for title, found in answers.items() if "run" in found[0]["metric"]}
    assert len(by_run) == 5
    assert all([series["metric"]["run"] for series in found] == [RUN] for found in by_run.values())
    value = {title: float(found[0]["value"][1]) for title, found in answers.items()}
    assert value["Samples per second"] > 0
    assert 0 <= value["Waiting for data"] <= 1
    assert value["Step"] > 0
    assert float(lag[0]["value"][1]) >= 0
    assert 0 < value["CPU of the nodes"] <= 100
    print(json.dumps(value, indent=1))
