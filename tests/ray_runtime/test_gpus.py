"""Whether PyTorch can use the GPUs that Ray counts, asked of machines that are not at hand."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pynvml
import pytest
import ray
import torch

from mipnet.ray_runtime import gpus as gpus_module
from mipnet.ray_runtime.gpus import cuda_problem, gpu_problem, probe_cuda
from tests.helpers.commands import command
from tests.helpers.servers import ray_head

SCENES = {"easy": 0, "medium": 0, "hard": 2, "validation": 1}
ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_90a", "sm_120", "compute_120"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what PyTorch and the driver say: build, CUDA of the driver, compute capability of each GPU."""

    def be(built: str | None, driver: int, capabilities: list[tuple[int, int]]) -> None:
        monkeypatch.setattr(torch, "__version__", "2.13.0+x")
        monkeypatch.setattr(torch.version, "cuda", built)
        monkeypatch.setattr(torch.version, "hip", None)
        works = bool(capabilities) and driver // 1000 >= int((built or "0").partition(".")[0])
        monkeypatch.setattr(torch.cuda, "is_available", lambda: works)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device}")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ARCHITECTURES)
        monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "535.104.05")
        monkeypatch.setattr(pynvml, "nvmlSystemGetCudaDriverVersion", lambda: driver)

        def init() -> None:
            if not driver:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

        monkeypatch.setattr(pynvml, "nvmlInit", init)

    return be


@pytest.mark.parametrize(
    ("built", "driver", "capabilities", "problem"),
    [
        ("13.0", 13000, [(9, 0)] * 2, ""),
        ("13.0", 13010, [(3, 5), (8, 9), (12, 1)], ""),  # one more than are asked for; 8.9 runs code for 8.6
        (None, 13000, [(9, 0)] * 2, "PyTorch 2.13.0+x is built without CUDA"),
        (
            "13.0",
            12020,
            [(9, 0)] * 2,
            "PyTorch 2.13.0+x (CUDA 13.0) finds no GPU, driver 535.104.05 is for CUDA 12.2 and older",
        ),
        ("13.0", 0, [], "PyTorch 2.13.0+x (CUDA 13.0) finds no GPU, there is no driver of NVIDIA"),
        ("13.0", 13000, [(9, 0)], "PyTorch 2.13.0+x sees 1 of 2 GPUs"),
        (
            "13.0",
            13000,
            [(9, 0), (7, 0)],
            "PyTorch 2.13.0+x has no kernels for GPU 1 (compute capability 7.0)",
        ),
        ("13.0", 13000, [(10, 0)] * 2, "PyTorch 2.13.0+x has no kernels for GPU 0 (compute capability 10.0)"),
        ("13.0", 14000, [(13, 0)] * 2, ""),  # by PTX
    ],
)
def test_what_keeps_pytorch_from_two_gpus(machine, built, driver, capabilities, problem):
    machine(built, driver, capabilities)
    found = cuda_problem(2)
    assert (found.reason if found else "") == problem


@pytest.mark.parametrize(("visible", "left"), [("", None), ("1", "1"), (None, None)])
def test_a_task_sees_the_gpus_that_ray_hides_from_it(machine, monkeypatch, visible, left):
    machine("13.0", 13000, [(9, 0)])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert probe_cuda(1) is None
    assert gpus_module.os.environ.get("CUDA_VISIBLE_DEVICES") == left


def hang(gpus: int) -> str:
    import threading

    threading.Event().wait()
    return ""


def crash(gpus: int) -> str:
    import os

    os.abort()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_probes_that_hang_or_crash_are_problems(monkeypatch):
    (node,) = ray.nodes()
    equipped = {**node, "Resources": node["Resources"] | {"GPU": 1000.0}}

    def reason(*nodes: dict[str, Any], can_add_nodes: bool = False) -> str:
        found = gpu_problem(nodes, can_add_nodes)
        return found.reason if found else ""

    assert reason(node) == ""
    assert reason(equipped).startswith("PyTorch ")
    assert reason({**equipped, "NodeID": "0" * 56}, node) == "", "it was lost meanwhile"
    monkeypatch.setattr(gpus_module, "probe_cuda", crash)
    other = {**equipped, "NodeManagerAddress": "10.0.0.7"}
    assert reason(other, node).startswith("node 10.0.0.7: the probe of its GPUs failed")
    monkeypatch.setattr(gpus_module, "IMPORT_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(gpus_module, "probe_cuda", hang)
    assert reason(equipped) == "PyTorch did not say within 1 s whether it can use the GPUs"
    monkeypatch.setattr(gpus_module, "NODE_START_TIMEOUT_SECONDS", 1)
    assert reason(node, can_add_nodes=True) == "no node with a GPU started within 1 s"


@pytest.mark.drill
@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch can use a GPU here")
def test_gpus_that_only_ray_counts_are_left_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = (f"--scenes.{kind}={count}" for kind, count in SCENES.items())
    train = ("train", "--preset", "debug", *scenes, "--epochs", "1", "--storage", str(tmp_path / "storage"))
    flags = "--num-gpus=2", "--include-dashboard=false"
    with TemporaryDirectory(prefix="ray-") as folder, ray_head(Path(folder), *flags) as env:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        refused = command(*train, "--gpu", address=env["RAY_ADDRESS"])
        trained = command(*train, address=env["RAY_ADDRESS"])
    assert refused.returncode != 0
    assert re.fullmatch(r"mipnet: --gpu: PyTorch .*, or leave out --gpu\n", refused.stderr), refused.stderr
    assert "worker(s)" not in refused.stdout  # no plan was made
    assert trained.returncode == 0, trained.stdout + trained.stderr
    (line,) = (line for line in trained.stdout.splitlines() if "computing on" in line)
    assert line.startswith("PyTorch ")
    assert line.endswith(": computing on CPUs")
