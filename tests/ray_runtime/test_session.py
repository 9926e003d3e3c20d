"""Joining Ray: what is refused before anything starts, and the storage seen from every node."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import ray

from mipnet.config.schema import ResourcesConfig
from mipnet.errors import UserError
from mipnet.ray_runtime import probes
from mipnet.ray_runtime import session as session_module
from mipnet.ray_runtime.gpus import GpuProblem
from mipnet.ray_runtime.probes import readable_and_writable
from mipnet.ray_runtime.resources import AutoscalerLimits, autoscaler_limits, resolve_use_gpu
from mipnet.ray_runtime.session import (
    MIN_OBJECT_STORE_BYTES,
    connect,
    local_object_store_bytes,
    raylet_messages_logged,
)
from mipnet.storage import Folder

NOT_ASKED = "PyTorch is asked for nothing"
TWO_NODES = """
import sys
import ray
from ray.cluster_utils import Cluster
from mipnet.ray_runtime.gpus import gpu_problem
from mipnet.ray_runtime.probes import probe_storage
from mipnet.ray_runtime.session import silence_ray
from mipnet.storage import Folder

silence_ray(False)
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1, num_gpus=1000)
ray.init(address=cluster.address, log_to_driver=False)
assert len(ray.nodes()) == 2
probe_storage(Folder.of(sys.argv[1]))
print("all nodes see it")
print(gpu_problem(ray.nodes(), False).reason)
"""


def test_a_dead_address_is_said_at_once(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    refused = pytest.raises(UserError, match=r"no Ray cluster answers at 127.0.0.1:1 .*check RAY_ADDRESS")
    with refused, connect(ResourcesConfig()):
        pass


@pytest.mark.parametrize(
    ("wanted", "gpus", "problem", "chosen", "said"),
    [
        ("auto", 0, NOT_ASKED, False, "no GPU in Ray's cluster: computing on CPUs\n"),
        ("auto", 3, NOT_ASKED, False, "3 GPUs are too few for 4 workers: computing on CPUs\n"),
        ("auto", 4, None, True, "computing on GPUs: 4 in Ray's cluster, one for each of 4 worker(s)\n"),
        ("auto", 4, GpuProblem("old driver", "mend"), False, "old driver: computing on CPUs\n"),
        (True, 0, NOT_ASKED, True, ""),
        (False, 8, NOT_ASKED, False, ""),
    ],
)
def test_auto_takes_gpus_if_each_worker_gets_one(wanted, gpus, problem, chosen, said, capsys):
    def ask() -> GpuProblem | None:
        assert problem != NOT_ASKED
        return problem

    settled = resolve_use_gpu(ResourcesConfig(workers=4, gpu=wanted), gpus, ask)
    assert (settled.gpu, settled.workers) == (chosen, 4)
    assert capsys.readouterr().out == said


def test_a_local_store_holds_the_windows_and_fits_into_the_machine(monkeypatch):
    def shared(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free))

    monkeypatch.setattr(session_module, "memory", lambda: 20 * 2**30)
    monkeypatch.setattr(sys, "platform", "linux")
    shared(100 * 2**30)
    assert local_object_store_bytes(0, 4) == MIN_OBJECT_STORE_BYTES  # nothing is streamed
    assert local_object_store_bytes(2**28, 4) == 2 * 6 * 2**28
    assert local_object_store_bytes(2**30, 4) == pytest.approx(6 * 2**30)  # 30 % of what is free
    shared(2 * 2**30)
    assert local_object_store_bytes(2**30, 4) == pytest.approx(1.9 * 2**30)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert local_object_store_bytes(2**30, 4) == 2 * 2**30


@pytest.mark.parametrize(
    ("labels", "limits", "growth"),
    [
        ([{}], None, AutoscalerLimits()),
        ([{}, {"ray.io/node-group": "gpu"}], None, AutoscalerLimits(True)),
        ([{}], {"GPU": 8.0}, AutoscalerLimits(True, {"GPU": 8.0})),
    ],
)
def test_a_cluster_grows_if_its_nodes_have_kinds_or_it_has_limits(labels, limits, growth, monkeypatch):
    state = ray._private.state.state
    monkeypatch.setattr(state, "get_max_resources_from_cluster_config", lambda: limits)
    assert autoscaler_limits(labels) == growth


@pytest.mark.parametrize("gone", ["state.state", "state"])
def test_a_ray_that_tells_no_limits_is_one_without_them(gone, monkeypatch):
    monkeypatch.delattr(f"ray._private.{gone}")
    assert autoscaler_limits([{"ray.io/node-group": "gpu"}]) == AutoscalerLimits(True)
    assert autoscaler_limits([{}]) == AutoscalerLimits()


def test_no_ray_on_this_machine_is_said(monkeypatch):
    def none(*_):
        raise ConnectionError("Could not find any running Ray instance. Please specify the one to connect to")

    monkeypatch.setattr(ray._private.services, "get_ray_address_from_environment", none)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    message = r"no Ray cluster answers at auto \(none runs on this machine\); check RAY_ADDRESS"
    with pytest.raises(UserError, match=message), connect(ResourcesConfig()):
        pass


def test_a_cluster_of_this_machine_that_is_gone_is_said_at_once(monkeypatch):
    services = ray._private.services
    monkeypatch.setattr(services, "get_ray_address_from_environment", lambda *_: "127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127.0.0.1:1"), connect(ResourcesConfig()):
        pass
    monkeypatch.delattr(services, "get_ray_address_from_environment")  # as in another Ray
    assert session_module._address_of_auto() == "auto"


BUSY = "The current node timed out during startup. This could happen because some of the raylet failed"


@pytest.mark.parametrize("failures", [1, 2, 3, 9])
def test_a_ray_that_starts_too_slowly_is_started_again(failures, monkeypatch):
    tried = []

    def init(**_):
        tried.append(1)
        if len(tried) <= failures:
            raise Exception(BUSY)
        raise ConnectionError("started")  # enough is seen

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    message = "Ray did not start in time on this machine, 3 times" if failures > 2 else "started"
    with pytest.raises(UserError, match=message), connect(ResourcesConfig()):
        pass
    assert len(tried) == min(failures + 1, 3)


@pytest.mark.parametrize("length", [101, 160])
def test_a_long_temporary_folder_is_said(length, tmp_path, monkeypatch):
    folder = tmp_path / ("x" * (length - len(str(tmp_path)) - 1))
    folder.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    message = r"too long for Ray's sockets; set RAY_TMPDIR to a short one"
    with pytest.raises(UserError, match=message), connect(ResourcesConfig()):
        pass


def test_a_node_that_sees_other_files_says_so(tmp_path):
    here = Folder.of(tmp_path)
    here.write("driver", "token")
    assert readable_and_writable(here, "token") == ""
    assert "does not see the files" in readable_and_writable(Folder.of(tmp_path / "elsewhere"), "token")
    here.write("driver", "another")
    assert "another file" in readable_and_writable(here, "token")


@pytest.mark.ray
@pytest.mark.slow
def test_every_node_of_a_cluster_is_asked(tmp_path):
    env = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "CUDA_VISIBLE_DEVICES")}
    done = subprocess.run(
        [sys.executable, "-c", TWO_NODES, str(tmp_path)], env=env, capture_output=True, text=True, timeout=300
    )
    assert "all nodes see it" in done.stdout, done.stderr
    assert re.search(r"^node [\d.]+: PyTorch .*(CUDA|GPU)", done.stdout, re.MULTILINE), done.stdout
    assert list(tmp_path.iterdir()) == []


def test_probes_at_the_same_time_leave_each_other_alone(tmp_path, monkeypatch):
    """Another command probes, and ends, between our write and the answer of the nodes."""
    storage, asked = Folder.of(tmp_path), []

    def ask(check, *args):
        asked.append(args)
        if len(asked) == 1:
            probes.probe_storage(storage)
        return [("1.2.3.4", problem)] if (problem := check(*args)) else []

    monkeypatch.setattr(probes, "problems_by_node", ask)
    probes.probe_storage(storage)
    assert len(asked) == 2
    assert list(tmp_path.iterdir()) == []


def test_what_ray_prints_of_a_lost_node_is_logged(monkeypatch, capsys, caplog):
    """Fails as well if Ray renames what is replaced: then a lost node prints coloured lines again."""
    from ray._private import worker

    def say(text: str) -> None:
        worker.print_to_stdstream({"lines": [text], "pid": "raylet", "is_err": False}, ignore_prefix=False)

    monkeypatch.setattr(worker, "print_worker_logs", lambda data, *_: print(data["lines"]))
    caplog.set_level("INFO", "mipnet")
    with raylet_messages_logged():
        say("The node 0bd4 has been marked dead\n\t(1) it crashed")
    assert capsys.readouterr().out == ""
    assert "Ray: The node 0bd4 has been marked dead (1) it crashed" in caplog.messages
    say("another")
    assert capsys.readouterr().out == "['another']\n"
    monkeypatch.delattr(worker, "print_worker_logs")
    with raylet_messages_logged():
        pass
