"""Python, Ray and all other versions agree between pyproject.toml, the images and the manifests."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
import ray
import yaml
from packaging.requirements import Requirement

import mipnet

PROJECT = Path(__file__).parents[2]
CLUSTER = PROJECT / "cluster"
IMAGE = CLUSTER / "image" / "Dockerfile"
SERVER = CLUSTER / "mlflow" / "Dockerfile"


def project() -> dict:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def lock() -> dict[str, str]:
    lines = (CLUSTER / "image" / "requirements.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def images() -> list[str]:
    """Every image that a file of cluster/ names, but those that a Dockerfile starts from."""
    found = []
    for path in CLUSTER.rglob("*.yaml"):
        found += re.findall(r"image: (?:&\w+ )?([^\s*]+)", path.read_text())
    return found


def test_the_lock_satisfies_the_project(lock):
    for line in project()["dependencies"]:
        wanted = Requirement(line)
        version = lock.get(wanted.name.lower().replace("_", "-"))
        assert version, f"run cluster/image/lock.py: it does not know {wanted.name}"
        assert wanted.specifier.contains(version), f"run cluster/image/lock.py: {line}, locked {version}"


def test_one_ray_everywhere(lock):
    version = lock["ray"]
    assert Requirement(next(d for d in project()["dependencies"] if d.startswith("ray"))).specifier.contains(
        ray.__version__
    )
    for name in ("raycluster", "rayjob"):
        spec = yaml.safe_load((CLUSTER / "kuberay" / f"{name}.yaml").read_text())["spec"]
        assert spec.get("rayClusterSpec", spec)["rayVersion"] == version
    ours = [image for image in images() if re.search(r"/mipnet:", image)]
    assert len(ours) == 2 + 1 + 1  # AWS, GCP, cluster, job (others refer to these by anchors)
    assert set(ours) == {f"registry.example.com/mipnet:{mipnet.__version__}-ray{version}"}
    assert f"REGISTRY/mipnet:{mipnet.__version__}-ray{version} " in IMAGE.read_text()


def test_one_python_everywhere():
    bases = re.findall(r"^FROM (\S+)", IMAGE.read_text() + SERVER.read_text(), re.M)
    assert len(bases) == 3
    (base,) = set(bases)
    minor = re.fullmatch(r"python:(3\.\d+)\.\d+-slim-\w+", base).group(1)
    assert minor == "3.11"
    assert f">={minor}" in project()["requires-python"]
    assert sys.version_info[:2] >= tuple(map(int, minor.split(".")))


def test_one_mlflow_everywhere(lock):
    version = lock["mlflow"]
    assert f" mlflow=={version} " in SERVER.read_text()
    named = [image for image in images() if "mipnet-mlflow" in image]
    assert len(named) == 2
    assert {image.rpartition(":")[2] for image in named} == {version}


def test_every_image_has_an_exact_version():
    for image in images():
        assert re.search(r":v?\d+\.\d+", image), image
    postgres = {image for image in images() if image.startswith("postgres:")}
    assert len(postgres) == 1


def test_the_images_do_not_run_as_root():
    for path in (IMAGE, SERVER):
        users = re.findall(r"^USER (\S+)", path.read_text(), re.M)
        assert users == ["1000:1000"]


def test_what_the_images_copy_is_let_into_their_context():
    for path in (IMAGE, SERVER):
        ignore = path.with_name("Dockerfile.dockerignore").read_text().split()
        kept = {line[1:] for line in ignore if line.startswith("!")}
        context = PROJECT if path == IMAGE else CLUSTER
        copied = [
            source
            for line in re.findall(r"^COPY (?!--from)(.+)", path.read_text(), re.M)
            for source in line.split()[:-1]
        ]
        assert set(copied) == kept
        assert all((context / source).exists() for source in copied)
