"""A machine with a GPU and little else: PyTorch, NumPy, OpenCV, PyArrow and safetensors, and pytest.

Networks, training step, crop predictor, decoding, ``mipnet bench step``, ``mipnet bench inference`` and
``pytest -m gpu`` need no more than these: no Ray, MLflow, pydantic or pycocotools.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
INSTALLED = ("torch", "numpy", "opencv-python-headless", "pyarrow", "safetensors", "pytest")
ABSENT = ("ray", "mlflow", "pydantic", "pycocotools", "annotated_types", "yaml", "psutil", "PIL", "rich")

SCRIPT = """
import importlib.util, sys
found = [name for name in {absent!r} if importlib.util.find_spec(name)]
assert not found, found
from mipnet.cli.main import main
flags = ["--preset", "debug", "--device", "cpu", "--batch", "2", "--rounds", "1"]
assert main(["bench", "step", *flags]) == 0
assert main(["bench", "inference", *flags]) == 0
import pytest
sys.exit(pytest.main(["-m", "gpu", "--collect-only", "-q", "-p", "no:cacheprovider"]))
"""


def with_requirements(name: str, found: dict[str, Distribution]) -> None:
    """Add an installed distribution and those that it needs, without extras, to ``found``."""
    try:
        found[name] = distribution(name)
    except PackageNotFoundError:  # for another system, or PyTorch with CUDA
        return
    for requirement in map(Requirement, found[name].requires or ()):
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name not in found:
            with_requirements(requirement.name, found)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with links to what such a machine has."""
    found: dict[str, Distribution] = {}
    for name in INSTALLED:
        with_requirements(name, found)
    for each in found.values():
        for first in {
            file.parts[0] for file in each.files or () if file.parts[0] not in ("..", "__pycache__")
        }:
            link = tmp_path / first
            if not link.exists():
                link.symlink_to(Path(str(each.locate_file(first))))
    return tmp_path


@pytest.mark.slow
def test_a_machine_with_little_more_than_pytorch_can_measure_and_test(packages: Path) -> None:
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV", "PYTHON"))
    }
    env |= {"PYTHONPATH": f"{packages}{os.pathsep}{ROOT}"}
    words = [sys.executable, "-S", "-c", SCRIPT.format(absent=ABSENT)]  # -S: no site-packages
    done = subprocess.run(words, env=env, cwd=ROOT, text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "prefix once, λ folded" in done.stdout
    assert "batch norm folded" in done.stdout
    for name in ("it_learns_a_fixed_batch[cuda-bf16]", "nccl_with_one_rank", "decoding[cuda-dark]"):
        assert f"test_{name}" in done.stdout
    assert "[cpu" not in done.stdout


def test_other_tests_and_what_they_start_see_no_gpu() -> None:
    """Many demand the bits of another training, which only a CPU gives."""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
