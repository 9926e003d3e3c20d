"""What a user reads when something is wrong: one line that says what, where and how to mend it.

Every row breaks one thing and runs the command line in this process. None of them may start Ray: what can be
known beforehand is said beforehand. What only a cluster knows is asked of the functions that look at it.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from mipnet.cli import main
from mipnet.config import preset, to_dict
from mipnet.config.schema import ResourcesConfig
from mipnet.errors import UserError
from mipnet.models.build import build_model
from mipnet.models.weights import save_model
from mipnet.raysession import Growth, check_room
from mipnet.storage import Folder

ANNOTATIONS = "annotations/person_keypoints_train.json"
Break = Callable[[Path], object]
"""Breaks something below a folder with ``data`` (a COCO data set) and ``storage``."""


def edit(change: Callable[[dict], object]) -> Break:
    def apply(place: Path) -> None:
        path = place / "data" / ANNOTATIONS
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


def every_person(**changes: object) -> Break:
    return edit(lambda content: [person.update(changes) for person in content["annotations"]])


def first_person(**changes: object) -> Break:
    return edit(lambda content: content["annotations"][0].update(changes))


def write(name: str, text: str = "") -> Break:
    def apply(place: Path) -> None:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)

    return apply


def remove(name: str) -> Break:
    return lambda place: shutil.rmtree(place / name) if (place / name).is_dir() else (place / name).unlink()


def nothing(place: Path) -> None:
    pass


def random_model(place: Path, **extra: object) -> None:
    save_model(place / "model", build_model("hrnet", width=8, modules=(1,), places=(2,)), dict(extra))


def cut_off_model(place: Path) -> None:
    random_model(place, config=to_dict(preset("debug")))
    weights = place / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


TRAIN = (
    "train --preset debug --storage {0}/storage --data {0}/data --data.tune train --data.evaluate train "
    "--data.boxes gt "
)
EVALUATE = "evaluate {0}/model --storage {0}/storage --data {0}/data --data.evaluate train --data.boxes gt "

# What is broken, the command, and what it says (a regular expression; {0} is the folder).
MESSAGES: dict[str, tuple[Break, str, str]] = {
    "data root missing": (
        remove("data"),
        TRAIN,
        r"the data set's folder {0}/data does not exist; check --data",
    ),
    "annotations missing": (
        remove(f"data/{ANNOTATIONS}"),
        TRAIN,
        rf"there are no annotations of split 'train': tried {{0}}/data/{ANNOTATIONS}; check --data ",
    ),
    "broken JSON": (
        write(f"data/{ANNOTATIONS}", '{"images": ['),
        TRAIN,
        rf"{{0}}/data/{ANNOTATIONS} is not JSON \(.*line 1.*\); download or export it again",
    ),
    "not COCO": (
        write(f"data/{ANNOTATIONS}", "{}"),
        TRAIN,
        rf"{{0}}/data/{ANNOTATIONS} has no list 'images'; give a COCO keypoint annotation file",
    ),
    "annotation without its image": (
        first_person(image_id=999),
        TRAIN,
        r"1 of 30 samples are unusable \(1 x annotation without its image: annotation 100\); mend them",
    ),
    "other skeleton": (
        edit(lambda content: content["categories"][0].update(keypoints=["head", "tail"])),
        TRAIN,
        r"annotates 2 keypoints but skeleton coco17 has 17; choose the skeleton with --data.skeleton",
    ),
    "keypoints that do not fit": (
        first_person(keypoints=[1, 2, 2] * 14),
        TRAIN,
        r"1 x 14 keypoints instead of 17: annotation 100 of 0.jpg\); mend them, or raise ",
    ),
    "keypoints that are not numbers": (
        first_person(keypoints=[float("nan")] * 51),
        TRAIN,
        r"1 x keypoints that are not numbers: annotation 100 of 0.jpg",
    ),
    "box outside its image": (
        first_person(bbox=[500, 500, 10, 10]),
        TRAIN,
        r"1 x box outside its image: annotation 100 of 0.jpg\); mend them, or raise ",
    ),
    "negative box": (
        first_person(bbox=[10, 10, -5, -5]),
        TRAIN,
        r"1 x box outside its image: annotation 100",
    ),
    "image missing": (
        remove("data/train/0.jpg"),
        TRAIN,
        r"1 of 12 images cannot be read \({0}/data/train/0.jpg\); mend them, or raise --data.max-bad-share",
    ),
    "image outside its root": (
        edit(lambda content: content["images"][0].update(file_name="../../secret.jpg")),
        TRAIN,
        r"file name '../../secret.jpg' leads out of its folder {0}/data/train; use names relative to it",
    ),
    "nobody usable": (
        every_person(num_keypoints=0),
        TRAIN,
        r"has no usable person \(no annotation has labelled keypoints\); label the keypoints",
    ),
    "empty annotations": (
        edit(lambda content: content.update(annotations=[])),
        TRAIN,
        r"has no usable person \(no annotation has labelled keypoints\); label the keypoints",
    ),
    "detections missing": (
        nothing,
        TRAIN + "--data.boxes d={0}/d.json",
        r"{0}/d.json does not exist; give --data.boxes gt, NAME for ROOT/boxes/NAME_SPLIT.json, or NAME=FILE",
    ),
    "detections of unknown images": (
        write("d.json", '[{"image_id": 77, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 1}]'),
        TRAIN + "--data.boxes d={0}/d.json",
        r"{0}/d.json: detection 0 names the unknown image 77; the boxes must be of the images in {0}/data/",
    ),
    "detections broken": (
        write("d.json", '[{"image_id": 0, "category_id": 1, "bbox": [1, 1], "score": 1}]'),
        TRAIN + "--data.boxes d={0}/d.json",
        r"{0}/d.json: detection 0 is not a usable box; give detections as \[{{",
    ),
    "storage that is a file": (
        write("file"),
        "train --preset debug --storage {0}/file",
        r"cannot write {0}/file.* \((Not a directory|File exists)\); choose another place with --storage",
    ),
    "storage nobody can write": (
        nothing,
        "train --preset debug --storage /proc/nobody",
        r"cannot write /proc/nobody.* \(No such file or directory\); choose another place with --storage",
    ),
    "configuration missing": (nothing, "train --config {0}/c.yaml", r"--config: cannot read {0}/c.yaml"),
    "configuration broken": (
        write("c.yaml", "train: ["),
        "train --config {0}/c.yaml",
        r"--config: {0}/c.yaml is not YAML \(.* line 1, column 9.*\); mend it there",
    ),
    "unknown setting": (
        write("c.yaml", "train: {epoch: 3}"),
        "train --config {0}/c.yaml",
        r"train.epoch: unknown setting; did you mean 'epochs'",
    ),
    "unknown preset": (nothing, "train --preset tiney", r"preset: 'tiney' is unknown; did you mean 'tiny'\?"),
    "impossible batch": (
        nothing,
        "train --preset debug --workers 3",
        r"resources.workers: 3 does not divide train.batch_size 16; nearest is 2",
    ),
    "unknown model": (
        nothing,
        EVALUATE,
        r"no model at '{0}/model'; give models:/NAME@ALIAS, the name of a run, or a folder with model.json",
    ),
    "unknown alias": (
        nothing,
        "evaluate models:/mipnet@nobody --storage {0}/storage",
        r"no model models:/mipnet@nobody at sqlite:///{0}/storage/mlflow.db \(.* not found\); give models:/",
    ),
    "model without its configuration": (
        random_model,
        EVALUATE,
        r"{0}/model/model.json does not hold the configuration of a model; train or import it",
    ),
    "weights cut off": (cut_off_model, EVALUATE, r"weights.safetensors.*; copy the model again"),
    "starting weights missing": (
        nothing,
        TRAIN + "--train.init {0}/start.pth",
        r"no model at '{0}/start.pth'; give models:/NAME@ALIAS, the name of a run, or a folder",
    ),
    "checkpoint that is no checkpoint": (
        write("start.pth", "<html>"),
        "models import {0}/start.pth --out {0}/out",
        r"{0}/start.pth is no PyTorch checkpoint, or is cut off \(.*\); fetch it again",
    ),
    "pictures missing": (
        nothing,
        "predict {0}/nowhere.jpg",
        r"{0}/nowhere.jpg does not exist; give pictures",
    ),
}


@pytest.fixture
def place(tmp_path: Path, small_coco: Folder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a data set that may be broken, and a storage."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(small_coco.uri, tmp_path / "data")
    return tmp_path


@pytest.mark.parametrize("name", MESSAGES)
def test_it_is_said_in_one_line_before_ray_starts(
    name: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, command, message = MESSAGES[name]
    broken(place)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))
    code = main(command.format(place).split())
    said = capsys.readouterr().err.strip().splitlines()
    assert code != 0
    assert len(said) == 1, said
    assert said[0].startswith("mipnet: ")
    assert re.search(message.format(re.escape(str(place))), said[0]), said[0]


def test_the_data_set_of_the_table_is_whole(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unbroken, the same command goes on to start Ray: the messages above have no other reason."""

    class Started(Exception):
        pass

    def start(*_: object, **__: object) -> None:
        raise Started

    monkeypatch.setattr(ray, "init", start)
    with pytest.raises(Started):
        main(TRAIN.format(place).split())


@pytest.mark.parametrize(
    ("reason", "mend"),
    [
        (errno.ENOSPC, r"No space left on device\); make room there, then the same command goes on"),
        (errno.EROFS, r"Read-only file system\); choose another place with --storage"),
        (errno.EACCES, r"Permission denied\); choose another place with --storage"),
    ],
)
def test_a_storage_that_refuses_is_named(
    reason: int,
    mend: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(reason, "as the system says it")

    monkeypatch.setattr("os.replace", refuse)
    assert main(["train", "--preset", "debug", "--storage", f"{place}/storage"]) != 0
    assert re.search(rf"cannot write {place}/storage.* \({mend}", capsys.readouterr().err)


ONE_NODE = [{"CPU": 8.0, "GPU": 2.0}]


@pytest.mark.parametrize(
    ("resources", "growth", "message"),
    [
        (
            ResourcesConfig(workers=9, gpu=False),
            Growth(),
            "9 workers of 1 CPU do not fit .* room for 8; use --workers 8",
        ),
        (
            ResourcesConfig(workers=3, gpu=True),
            Growth(),
            "3 workers of 1 CPU and 1 GPU do not fit .* room for 2; use --workers 2",
        ),
        (
            ResourcesConfig(workers=1, gpu=False, cpus_per_worker=16),
            Growth(),
            "no node of Ray's cluster holds one worker of 16 CPUs .*8 CPUs.*; lower --resources.cpus",
        ),
        (
            ResourcesConfig(workers=8, gpu=False),
            Growth(),
            "take all 8 CPUs of Ray's cluster and leave none to decode images; ask for fewer --workers",
        ),
        (
            ResourcesConfig(workers=8, gpu=True),
            Growth(True, {"CPU": 64.0, "GPU": 4.0}),
            "need 8 GPUs, but Ray's autoscaler gives 4 at most; ask for fewer --workers",
        ),
    ],
)
def test_what_the_cluster_can_never_give_is_refused(
    resources: ResourcesConfig, growth: Growth, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_room(resources, ONE_NODE, growth)


def test_a_cluster_that_does_not_answer(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else takes the port meanwhile
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert main(TRAIN.format(place).split()) != 0
    assert f"no Ray cluster answers at {address}" in (said := capsys.readouterr().err)
    assert "check RAY_ADDRESS, or unset it to use this machine" in said
