"""The registered model responds in Python and over HTTP with the poses of ``mipnet predict``."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mipnet.data.crops import decode_image
from mipnet.registry.served import PoseModel
from mipnet.storage import Folder
from tests.helpers.bombs import png
from tests.helpers.detectors import red_picture, save_detector
from tests.helpers.registering import (
    BOXES,
    ask,
    check_same,
    encoded,
    expected,
    pictures,
    serving,
)
from tests.helpers.servers import responds

Register = Callable[..., int]


@pytest.fixture(scope="module")
def loaded(model_store: Folder) -> dict[str, Any]:
    return {}


@pytest.fixture
def model(register: Register, loaded: dict[str, Any]) -> Any:
    """The registered model as MLflow loads it in Python."""
    import mlflow

    if not loaded:
        register("python")
        loaded["model"] = mlflow.pyfunc.load_model("models:/python@candidate")
    return loaded["model"]


def test_python_may_give_pixels_paths_and_base64(
    model: Any, small_models: list[Path], small_coco: Folder
) -> None:
    files = pictures(small_coco)
    rows = [
        {"image": decode_image(files[0].read_bytes()), "boxes": BOXES[0]},
        {"image": files[1], "boxes": BOXES[1]},
        {"image": encoded(files[2]), "boxes": np.array(BOXES[2])},
    ]
    wanted = expected(small_models[0], small_coco)
    check_same(model.predict(rows), wanted)
    check_same(model.predict(rows[1:2]), wanted[1:2])
    check_same(model.predict(rows * 3), wanted * 3)


def test_no_boxes_is_the_whole_image_and_an_empty_list_is_nobody(model: Any, small_coco: Folder) -> None:
    text = encoded(pictures(small_coco)[0])
    whole = model.predict([{"image": text, "boxes": [[0, 0, 120, 100]]}])
    assert model.predict([{"image": text}]) == whole
    boxed = {"image": text, "boxes": BOXES[0]}
    found = model.predict([{"image": text}, {"image": text, "boxes": []}, boxed])
    assert found == [*whole, [], *model.predict([boxed])]
    assert whole[0]
    assert found[2]


def test_a_request_may_name_its_least_score(model: Any, small_coco: Folder) -> None:
    """A whole number, too, and none beside it; an untrained network's scores are 0."""
    text = encoded(pictures(small_coco)[0])
    none, every, default = model.predict(
        [{"image": text, "min_score": 1}, {"image": text, "min_score": 0.0}, {"image": text}]
    )
    assert none == []
    assert every == default != []


def test_a_detector_finds_the_people_of_rows_without_boxes(
    model: Any, monkeypatch: pytest.MonkeyPatch, small_models: list[Path], tmp_path: Path
) -> None:
    from mlflow.exceptions import MlflowException

    detector = save_detector(tmp_path / "d.onnx", "yolo", (128, 128))
    monkeypatch.setenv("MIPNET_DETECTOR", str(detector))
    served = PoseModel()
    served.load_context(SimpleNamespace(artifacts={"network": str(small_models[0])}))
    picture, nobody = red_picture((150, 100), (30, 20, 40, 50)), np.zeros((100, 150, 3), np.uint8)
    found, nothing = served.predict(None, [{"image": picture}, {"image": nobody}])
    assert nothing == []
    for pose in found:
        np.testing.assert_allclose(pose["box"], [30, 20, 40, 50], atol=0.5)
    assert found
    boxed = {"image": picture, "boxes": [[30, 20, 40, 50]]}
    assert served.predict(None, [boxed]) == model.predict([boxed])
    with pytest.raises(MlflowException, match="525 boxes in a request are more than 500"):
        served.predict(None, [{"image": nobody}] * 21)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"min_score": "high"}, "row 1: 'min_score' is not a number"),
        ({"boxes": [[1, 2, 3]]}, "row 1: 'boxes' is not a list of"),
        ({"boxes": [[1, 2], [3, 4]]}, "row 1: 'boxes' is not a list of"),
        ({"boxes": [1, 2, 3, 4]}, "row 1: 'boxes' is not a list of"),
        ({"boxes": [[1, 2, 0, 4]]}, "row 1: 'boxes' is not a list of"),
        ({"boxes": [[1, 2, float("nan"), 4]]}, "row 1: 'boxes' is not a list of"),
        ({"boxes": [[0, 0, 1e300, 1e300]]}, "row 1: 'boxes' is not a list of"),
        ({"boxes": [[1e6, 0, 5, 5]]}, "row 1: 'boxes' has at place 0 [1000000.0, 0.0, 5.0, 5.0], which"),
        ({"image": [[[0, 0, 0]]]}, "row 1: 'image' is a list, neither"),
        ({"boxes": "all"}, "row 1: 'boxes' is not a list of"),
        ({"image": "bm90IGEgcGljdHVyZQ=="}, "row 1: 'image' is not a picture that can be decoded"),
        ({"image": "PATH"}, "row 1: 'image' is not the base64 of a picture"),
        ({"image": ""}, "row 1: 'image' is not a picture that can be decoded"),
        ({"image": np.zeros((5, 5, 3))}, "row 1: 'image' is float64 (5, 5, 3), not (H, W, 3) uint8 RGB"),
        ({"image": np.zeros((5, 5), np.uint8)}, "row 1: 'image' is uint8 (5, 5), not (H, W, 3) uint8 RGB"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    model: Any, row: dict[str, Any], message: str, small_coco: Folder
) -> None:
    """Text is never a path, not even in Python."""
    from mlflow.exceptions import MlflowException

    fine = {"image": encoded(pictures(small_coco)[0]), "boxes": [[1.0, 2.0, 30.0, 40.0]]}
    if str(row.get("image")) == "PATH":
        row = {"image": str(pictures(small_coco)[0])}
    with pytest.raises(MlflowException, match="row 1") as caught:
        model.predict([fine, {**fine, **row}])
    assert message in str(caught.value)


def test_a_request_of_too_many_boxes_is_refused_at_once(model: Any, small_coco: Folder) -> None:
    """Of all its rows together; without boxes the whole image is one."""
    from mlflow.exceptions import MlflowException

    text = encoded(pictures(small_coco)[0])
    many = [
        {"image": text, "boxes": [[1, 2, 30, 40]] * 250},
        {"image": text, "boxes": [[1, 2, 30, 40]] * 251},
    ]
    for rows in (many, [{"image": "not even a picture"}] * 501):
        with pytest.raises(MlflowException, match="501 boxes in a request are more than 500; divide it"):
            model.predict(rows)


@pytest.mark.slow
def test_what_a_server_must_not_work_off_is_refused_without_memory(
    register: Register, model_store: Folder, small_coco: Folder, tmp_path: Path
) -> None:
    """Over HTTP: 600 million pixels in 73 KB, and 2,000 boxes; then the next request."""
    from mipnet.tracking.store import tracking_uri

    register("limited")
    fine = {"image": encoded(pictures(small_coco)[0]), "boxes": BOXES[0]}
    with serving("models:/limited@candidate", tracking_uri(model_store), tmp_path / "log") as address:
        assert ask(address, {"dataframe_records": [fine]})[0] == 200
        before = peak_memory("limited@candidate")
        picture = {**fine, "image": base64.b64encode(png(30_000, 20_000)).decode()}
        status, answer = ask(address, {"dataframe_records": [picture]})
        assert status == 400
        ours = answer["message"].splitlines()[-1]  # MLflow's own line, with the data, comes first
        assert "row 0: 'image' is not a picture that can be decoded: it has more than" in ours
        status, answer = ask(address, {"dataframe_records": [{**fine, "boxes": BOXES[0] * 2000}]})
        assert status == 400
        assert "2000 boxes in a request are more than 500" in answer["message"]
        assert peak_memory("limited@candidate") - before < 500e6
        assert ask(address, {"dataframe_records": [fine]})[0] == 200


def peak_memory(word: str) -> int:
    """The most bytes of all processes with a word in their command line or environment, summed."""
    peak = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes():
                (line,) = re.findall(r"VmHWM:\s+(\d+) kB", (folder / "status").read_text())
                peak += 1024 * int(line)
    return peak


@pytest.mark.slow
def test_the_champion_is_served_over_http(
    register: Register, model_store: Folder, small_models: list[Path], small_coco: Folder, tmp_path: Path
) -> None:
    """And a path in a request is never opened."""
    from mlflow import MlflowClient

    from mipnet.tracking.store import tracking_uri

    version = register("served")
    MlflowClient().set_registered_model_alias("served", "champion", str(version))
    files = pictures(small_coco)
    rows = [{"image": encoded(f), "boxes": boxes} for f, boxes in zip(files, BOXES, strict=True)]
    wanted = expected(small_models[0], small_coco)
    store = tracking_uri(model_store)
    with serving("models:/served@champion", store, tmp_path / "log") as address:
        for part in (slice(0, 1), slice(0, 3)):
            status, answer = ask(address, {"dataframe_records": rows[part]})
            assert status == 200, answer
            check_same(answer["predictions"], wanted[part])
        status, answer = ask(address, {"inputs": [rows[1]]})
        assert status == 200, answer
        check_same(answer["predictions"], wanted[1:2])
        for path in (str(files[0]), files[0].as_uri(), files[0].name):
            for form in ("dataframe_records", "inputs", "instances"):
                status, answer = ask(address, {form: [{"image": path, "boxes": BOXES[0]}]})
                assert status == 400
                assert "'image' is not the base64 of a picture" in json.dumps(answer)
        assert responds(f"{address}/ping")  # it has survived all of that


@pytest.mark.ray
@pytest.mark.slow
def test_http_gives_the_poses_of_mipnet_predict(
    ray_session: None, register: Register, model_store: Folder, small_coco: Folder, tmp_path: Path
) -> None:
    import ray

    from mipnet.tracking.store import tracking_uri

    register("predicted")
    files = pictures(small_coco)
    listed = [
        {"file_name": f.name, "bbox": box} for f, boxes in zip(files, BOXES, strict=True) for box in boxes
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(listed))
    uri = "models:/predicted@candidate"
    argv = [*map(str, files), "--model", uri, "--boxes", str(tmp_path / "boxes.json"), "--overlays", "0"]
    argv += ["--out", str(tmp_path / "out"), "--storage", model_store.uri]
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    env["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-m", "mipnet", "predict", *argv], env=env, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = [{"image": encoded(f), "boxes": boxes} for f, boxes in zip(files, BOXES, strict=True)]
    with serving(uri, tracking_uri(model_store), tmp_path / "log") as address:
        status, answer = ask(address, {"dataframe_records": rows})
    assert status == 200, answer
    by_image = [[r for r in results if r["file_name"] == f.name] for f in files]
    assert all(by_image)
    check_same(answer["predictions"], by_image)


ALONE = r"""
import importlib.metadata, json, re, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]
sys.path[:] = [place for place in sys.path if place not in ("", CHECKOUT)]
try:
    import mipnet
except ImportError:
    pass
else:
    raise SystemExit(f"mipnet is importable: {mipnet.__file__}")
import mlflow
model = mlflow.pyfunc.load_model("models:/alone@candidate")
poses = model.predict([{"image": text, "boxes": boxes} for text, boxes in json.load(sys.stdin)])
import mipnet
files = [module.__file__ for name, module in sys.modules.items() if name.startswith("mipnet.")]
found = {name for file in files for name in re.findall(r"^(?:import|from) (\w+)", open(file).read(), re.M)}
homes = importlib.metadata.packages_distributions()
packages = [package for name in found - {"mipnet"} for package in homes.get(name, [])]
print(json.dumps([mipnet.__file__, poses, packages, "ray" in sys.modules]))
"""


@pytest.mark.slow
def test_a_version_carries_its_code_and_names_what_else_it_needs(
    register: Register, model_store: Folder, small_models: list[Path], small_coco: Folder, tmp_path: Path
) -> None:
    """The reading side has nothing of ours; a package of our name on an index would be somebody else's."""
    import mlflow

    from mipnet.tracking.store import tracking_uri

    register("alone")
    files = pictures(small_coco)
    checkout = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", ALONE.replace("CHECKOUT", repr(checkout))],
        input=json.dumps([(encoded(f), boxes) for f, boxes in zip(files, BOXES, strict=True)]),
        env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri(model_store)},
        cwd=tmp_path,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    where, poses, packages, ray = json.loads(done.stdout.splitlines()[-1])
    assert Path(where).parts[-3:] == ("code", "mipnet", "__init__.py")
    assert checkout not in where
    check_same(poses, expected(small_models[0], small_coco))
    assert not ray
    requirements = mlflow.artifacts.load_text("models:/alone@candidate/requirements.txt")
    named = {line.partition("==")[0].lower() for line in requirements.split()}
    assert "mipnet" not in named
    assert {"torch", "pycocotools"} <= {package.lower() for package in packages}  # that any would be seen
    assert {package.lower() for package in packages} <= named
