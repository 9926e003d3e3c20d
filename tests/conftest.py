"""Fixtures that several test modules share."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from mipnet.config import Config, preset, to_dict
from mipnet.config.schema import DataConfig, ResourcesConfig
from mipnet.models.weights import save_model
from mipnet.skeletons import COCO17
from mipnet.storage import Folder
from mipnet.training.checkpoint import model_from_config

if TYPE_CHECKING:
    from mipnet.data.coco import PersonAnnotations


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all but ``pytest -m gpu``: only on CPUs two trainings end with the same bits.

    pytest-xdist: divide the cores among its processes. Without it, PyTorch keeps its default.
    """
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """On a machine without Ray, only tests that need nothing but PyTorch, NumPy, OpenCV and safetensors."""
    if importlib.util.find_spec("ray"):
        return None
    if collection_path.is_dir():
        return None if any(collection_path.rglob(ON_DEVICES)) else True
    return None if collection_path.match(ON_DEVICES) else True


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fast tests first: a mistake shows in seconds, not behind the end-to-end runs.

    With pytest-xdist (``--dist loadgroup``), two processes begin with the tests on their session's Ray, which
    take the longest: one with the end-to-end runs, one with all others; so no training that tests share is
    made twice. Those that start a Ray of their own stay together by file.
    """
    items.sort(key=lambda item: sum(item.get_closest_marker(m) is not None for m in ("ray", "slow")))
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    for item in items:
        shared = "ray_session" in getattr(item, "fixturenames", ()) and item.path.stem != "test_end_to_end"
        if shared or item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray" if shared else item.path.stem))
    items.sort(key=lambda item: "ray_session" not in getattr(item, "fixturenames", ()))


def pytest_collection_finish() -> None:
    """Garbage collections, which some tests ask for, pass over what the imports of all tests made."""
    gc.collect()
    gc.freeze()


ON_DEVICES = "*_on_devices.py"
"""Files of tests that also run on a GPU, on a machine that has little else."""


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> torch.device:
    """The first GPU, for tests marked ``gpu``."""
    if not torch.cuda.is_available():
        if request.config.option.markexpr == "gpu":
            pytest.exit(f"PyTorch {torch.__version__} sees no GPU on this machine", returncode=2)
        pytest.skip("only pytest -m gpu, on a machine with a GPU")
    return torch.device("cuda", 0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU; and the first GPU, under ``pytest -m gpu``."""
    found: torch.device = request.getfixturevalue("gpu") if request.param == "cuda" else torch.device("cpu")
    return found


def shared_folder() -> Path:
    """MIPNET_SHARED, by default ``../shared``; it need not exist."""
    return Path(os.environ.get("MIPNET_SHARED", Path(__file__).parents[2] / "shared")).resolve()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference numbers and sample images."""
    folder = shared_folder()
    if not folder.is_dir():
        if "MIPNET_SHARED" in os.environ:
            pytest.fail(f"MIPNET_SHARED is {folder}, which is no folder")
        pytest.skip(f"no shared folder at {folder} (set MIPNET_SHARED)")
    return folder


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per golden file, whatever files there are; NONE, which fails, if there are none."""
    golden = shared_folder() / "golden"
    if "golden_model" in metafunc.fixturenames:  # NAME of models/NAME.json and models/NAME.npz
        names = sorted({path.stem for path in (golden / "models").glob("*")})
        metafunc.parametrize("golden_model", names or ["NONE"])
    if "golden_file" in metafunc.fixturenames:
        names = sorted(path.name for path in (golden / "processing").glob("*"))
        metafunc.parametrize("golden_file", names or ["NONE"])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How far off the reference we are, on every run of the golden tests."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.getreports(kind)]
    lines = [str(text) for report in reports for name, text in report.user_properties if name == "golden"]
    if lines:
        terminalreporter.section("largest deviations from the reference")
        for line in sorted(lines):
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for the whole test session."""
    from mipnet.ray_runtime.session import connect

    with connect(ResourcesConfig(workers=2, gpu=False, stream_workers=2, object_store_gb=0.5)):
        yield


@pytest.fixture(scope="session")
def ray_address(ray_session: None) -> str:
    """RAY_ADDRESS of that Ray, for commands that are run as processes."""
    import ray

    return ray.get_runtime_context().gcs_address


@pytest.fixture
def on_ray(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """``mipnet.cli.main.main`` in the test's process uses the session's Ray instead of starting one."""

    @contextmanager
    def connected(resources: ResourcesConfig, *_: object) -> Iterator[ResourcesConfig]:
        yield replace(resources, gpu=False)

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("mipnet.ray_runtime.session.connect", connected)


@pytest.fixture(scope="session")
def small_coco(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A data set in COCO layout: 12 noise images of 120x100 px with 1 to 4 people of random joints each."""
    root = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (root / "train").mkdir()
    (root / "annotations").mkdir()
    for i in range(12):
        pixels = cv2.resize(rng.integers(0, 256, (10, 12, 3), np.uint8), (120, 100))
        cv2.imwrite(str(root / "train" / f"{i}.jpg"), pixels)
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 120, "height": 100})
        for _ in range(1 + i % 4):
            x, y, w, h = rng.uniform([0, 0, 30, 40], [50, 40, 60, 58])
            joints = np.column_stack([rng.uniform(x, x + w, 17), rng.uniform(y, y + h, 17), np.full(17, 2)])
            annotations.append(
                {
                    "id": 100 + len(annotations),
                    "image_id": i,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": [float(v) for v in (x, y, w, h)],
                    "area": float(w * h / 2),
                    "num_keypoints": 17,
                    "keypoints": joints.ravel().tolist(),
                }
            )
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO17.joints), "skeleton": []}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "person_keypoints_train.json").write_text(json.dumps(content))
    return Folder.of(root)


@pytest.fixture(scope="session")
def small_config(small_coco: Folder) -> Config:
    """What a network of a few thousand parameters is evaluated with on ``small_coco``."""
    base = preset("debug")
    data = DataConfig(root=small_coco.uri, val="train", evaluate=("train",), boxes=("gt",))
    model = replace(base.model, width=8, num_modules=(1,), mimb_stages=(2,), stem_channels=8)
    return replace(base, data=data, model=model)


@pytest.fixture(scope="session")
def small_models(small_config: Config, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of three untrained networks, each of another seed."""
    root = tmp_path_factory.mktemp("models")
    folders = []
    for seed in range(3):
        torch.manual_seed(seed)
        extra = {"config": to_dict(small_config)}
        folders.append(save_model(root / str(seed), model_from_config(small_config), extra))
    return folders


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A storage for registered models; each test takes a name of its own, or it would wait for a database."""
    return Folder.of(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def register(
    model_store: Folder, small_models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Registers an untrained network in ``model_store``, where MLflow then is: ``register(name, seed)``."""
    from tests.helpers.registering import register_small

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def make(name: str, seed: int = 0, tags: dict[str, str] | None = None, occlusion_ap: float = 0.0) -> int:
        return register_small(model_store, small_models[seed], name, f"{name}-{seed}", tags, occlusion_ap)

    return make


@pytest.fixture(scope="session")
def small_people(small_coco: Folder) -> PersonAnnotations:
    from mipnet.data.dataset_formats import open_split

    return open_split(DataConfig(), small_coco, "train").people()
