"""What a user reads when something is wrong: one line that says what, where and how to mend it.

Every row breaks one thing and runs the command line in this process. None of them may start Ray: what can be
known beforehand is said beforehand. What only a cluster knows is asked of the functions that look at it, and
what only pixels tell is said by the few rows at the end that go through Ray.
"""

from __future__ import annotations

import errno
import io
import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from mipnet.cli.main import main
from mipnet.config import preset, to_dict
from mipnet.config.schema import ResourcesConfig
from mipnet.errors import UserError
from mipnet.models.build import build_model
from mipnet.models.weights import save_model
from mipnet.ray_runtime import probes
from mipnet.ray_runtime import session as session_module
from mipnet.ray_runtime.gpus import GpuProblem
from mipnet.ray_runtime.resources import AutoscalerLimits, check_resources
from mipnet.registry import store
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


def folder(name: str) -> Break:
    return lambda place: (place / name).mkdir(parents=True)


def both(*breaks: Break) -> Break:
    return lambda place: [broken(place) for broken in breaks]


def good_model(place: Path) -> None:
    random_model(place, config=to_dict(preset("debug")))


def change_model(text: str, other: str) -> Break:
    """A model whose description says something else."""

    def apply(place: Path) -> None:
        good_model(place)
        path = place / "model" / "model.json"
        content = path.read_text()
        assert text in content
        path.write_text(content.replace(text, other))

    return apply


def random_model(place: Path, **extra: object) -> None:
    save_model(
        place / "model", build_model("hrnet", width=8, num_modules=(1,), mimb_stages=(2,)), dict(extra)
    )


def cut_off_model(place: Path) -> None:
    good_model(place)
    weights = place / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


TRAIN = (
    "train --preset debug --storage {0}/storage --data {0}/data --data.val train --data.evaluate train "
    "--data.boxes gt "
)
PREDICT = "predict {0}/data/train --model {0}/model --storage {0}/storage --out {0}/out "
EVALUATE = "evaluate {0}/model --storage {0}/storage --data {0}/data --data.evaluate train --data.boxes gt "

# What is broken, the command, and what it says (a regular expression; {0} is the folder). A command may begin
# with NAME=VALUE for the environment.
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
    "validation split missing": (
        nothing,
        TRAIN + "--data.val val",
        r"there are no annotations of split 'val': tried {0}/data/.*_val.json; check .* and the split's name",
    ),
    "split to evaluate missing": (
        nothing,
        TRAIN + "--data.evaluate train val",
        r"there are no annotations of split 'val': tried {0}/data/.*_val.json; check .* and the split's name",
    ),
    "images missing": (
        remove("data/train"),
        TRAIN,
        r"there are no images of split 'train': tried {0}/data/train, .*; check .* with --data.images",
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
        r"annotates 2 keypoints but skeleton coco17 has 17: head, tail in the file, nose, .*; choose ",
    ),
    "keypoints that do not fit": (
        first_person(keypoints=[1, 2, 2] * 14),
        TRAIN,
        r"1 x 14 keypoints instead of 17: annotation 100 of 0.jpg\); mend them, or raise ",
    ),
    "people that are none": (
        edit(lambda content: content["annotations"].__setitem__(slice(0, 2), [5, {"id": 1}])),
        TRAIN,
        rf"{{0}}/data/{ANNOTATIONS}: 2 of 30 samples are unusable \(2 x annotation without id, image_id or "
        r"category_id: number 0, annotation 1\); mend them, or raise --data.max-bad-share",
    ),
    "one id for two images": (
        edit(lambda content: content["images"][0].update(id=1)),
        TRAIN,
        rf"{{0}}/data/{ANNOTATIONS}: two images have the id 1; give each an id of its own",
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
        r"1 x box without width or height: annotation 100",
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
        every_person(keypoints=[0] * 51),
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
        r"{0}/d.json: 1 of 1 samples are unusable \(1 x box that is not usable: number 0\); give ",
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
    "results nobody can write": (
        both(good_model, write("file")),
        EVALUATE + "--out {0}/file",
        r"cannot write {0}/file.* \((Not a directory|File exists)\); choose another place with --out",
    ),
    "predictions nobody can write": (
        both(good_model, write("file")),
        PREDICT + "--out {0}/file",
        r"cannot write {0}/file.* \((Not a directory|File exists)\); choose another place with --out",
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
    "unknown flag": (
        nothing,
        "train --train.los mse",
        r"--train.los: unknown flag; did you mean '--train.loss'",
    ),
    "unknown value": (
        nothing,
        "train --train.loss msse",
        r"train.loss: 'msse' does not fit; did you mean 'mse'",
    ),
    "number that is none": (
        nothing,
        "train --epochs many",
        r"train.epochs: 'many' does not fit; give a valid integer",
    ),
    "unknown preset": (nothing, "train --preset tiney", r"preset: 'tiney' is unknown; did you mean 'tiny'\?"),
    "impossible batch": (
        nothing,
        "train --preset debug --workers 17",
        r"resources.workers: 17 is above train.batch_size 16; nearest is 16",
    ),
    "more CPUs than there are": (
        nothing,
        TRAIN + "--resources.cpus-per-worker 5000",
        r"no node of Ray's cluster holds one worker of 5000 CPUs .*; lower --resources.cpus-per-worker",
    ),
    "GPUs where there are none": (
        nothing,
        TRAIN + "--gpu",
        r"--gpu: PyTorch finds none; install one, or leave out --gpu",
    ),
    "address for jobs": (
        nothing,
        "RAY_ADDRESS=http://127.0.0.1:8265 " + TRAIN,
        r"RAY_ADDRESS http://127.0.0.1:8265 is a dashboard's, .*; submit this as a job .*, or give HOST:PORT",
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
    "model of a dead server": (
        nothing,
        "MLFLOW_TRACKING_URI=http://me:secret@127.0.0.1:1 evaluate models:/mipnet@champion",
        r"no MLflow server answers at http://127.0.0.1:1 \(Connection refused\); check MLFLOW_TRACKING_URI",
    ),
    "starting weights of a dead server": (
        nothing,
        "MLFLOW_TRACKING_URI=http://127.0.0.1:1 " + TRAIN + "--train.init models:/mipnet@champion",
        r"no MLflow server answers at http://127.0.0.1:1 \(Connection refused\); check MLFLOW_TRACKING_URI",
    ),
    "run without weights": (
        folder("storage/runs/begun"),
        "evaluate begun --storage {0}/storage",
        r"run begun has no weights yet; give its mipnet train command again",
    ),
    "run misspelt": (
        folder("storage/runs/begun"),
        "evaluate begn --storage {0}/storage",
        r"no model at 'begn'; did you mean 'begun'",
    ),
    "model without its configuration": (
        random_model,
        EVALUATE,
        r"{0}/model/model.json does not hold the configuration of a model; train or import it",
    ),
    "model of another version": (
        change_model('"precision"', '"exactness"'),
        EVALUATE,
        r"{0}/model/model.json is of another version of mipnet \(train.exactness: unknown setting",
    ),
    "weights missing": (
        both(good_model, remove("model/weights.safetensors")),
        EVALUATE,
        r"there is no weights.safetensors in {0}/model; give a folder that holds a saved model",
    ),
    "weights of another network": (
        change_model('"reduction": 4', '"reduction": 2'),
        EVALUATE,
        r"{0}/model/weights.safetensors does not fit the network: .*wrong shapes.*; copy the model again",
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
        r"{0}/start.pth is no PyTorch checkpoint but a web page; give a file with a state_dict",
    ),
    "pictures missing": (
        nothing,
        "predict {0}/nowhere.jpg",
        r"{0}/nowhere.jpg does not exist; give pictures",
    ),
    "no pictures": (
        folder("empty"),
        "predict {0}/empty",
        r"{0}/empty holds no pictures; they end in .jpg",
    ),
    "picture that is none": (
        both(good_model, write("data/train/0.jpg", "junk")),
        PREDICT,
        r"1 of 12 images cannot be read \({0}/data/train/0.jpg\); mend them, or raise --data.max-bad-share",
    ),
    "boxes missing": (nothing, PREDICT + "--boxes {0}/b.json", r"{0}/b.json does not exist; check --boxes"),
    "boxes that are none": (
        both(good_model, write("b.json", '[{"image_id": 0, "bbox": [5, 5, -1, 9]}]')),
        PREDICT + "--boxes {0}/b.json",
        r"{0}/b.json: 1 of 1 samples are unusable \(1 x box that is not usable: number 0\); give dete",
    ),
    "boxes of other pictures": (
        both(good_model, write("b.json", '[{"image_id": 77, "bbox": [5, 5, 9, 9]}]')),
        PREDICT + "--boxes {0}/b.json",
        r"{0}/b.json has no box to predict in: of 1 boxes .* and 1 are of other images; give each box a ",
    ),
    "list of pictures missing": (
        nothing,
        PREDICT + "--images-json {0}/l.json",
        r"{0}/l.json does not exist; check --images-json",
    ),
    "list of other pictures": (
        both(good_model, write("l.json", '{"images": [{"id": 1, "file_name": "x.jpg"}]}')),
        PREDICT + "--images-json {0}/l.json",
        r"{0}/l.json lists 1 images and none of the pictures \(x.jpg\); give the folder in which they lie",
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
    monkeypatch.setattr(session_module.cluster_resources, "local_gpu_count", lambda: 0)
    monkeypatch.setattr(
        session_module, "cuda_problem", lambda gpus: GpuProblem("PyTorch finds none", "install one")
    )
    words = command.format(place).split()
    while "=" in words[0]:
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    code = main(words)
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
    ("reason", "hint"),
    [
        (errno.ENOSPC, r"No space left on device\); make room there, then the same command goes on"),
        (errno.EROFS, r"Read-only file system\); choose another place with --storage"),
        (errno.EACCES, r"Permission denied\); choose another place with --storage"),
    ],
)
def test_a_storage_that_refuses_is_named(
    reason: int,
    hint: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(reason, "as the system says it")

    monkeypatch.setattr("os.replace", refuse)
    assert main(["train", "--preset", "debug", "--storage", f"{place}/storage"]) != 0
    assert re.search(rf"cannot write {place}/storage.* \({hint}", capsys.readouterr().err)


ONE_NODE = [{"CPU": 8.0, "GPU": 2.0}]


@pytest.mark.parametrize(
    ("resources", "growth", "message"),
    [
        (
            ResourcesConfig(workers=9, gpu=False),
            AutoscalerLimits(),
            "9 workers of 1 CPU do not fit .* room for 8; use --workers 8",
        ),
        (
            ResourcesConfig(workers=3, gpu=True),
            AutoscalerLimits(),
            "3 workers of 1 CPU and 1 GPU do not fit .* room for 2; use --workers 2",
        ),
        (
            ResourcesConfig(workers=1, gpu=False, cpus_per_worker=16),
            AutoscalerLimits(),
            "no node of Ray's cluster holds one worker of 16 CPUs .*8 CPUs.*; lower --resources.cpus",
        ),
        (
            ResourcesConfig(workers=8, gpu=False),
            AutoscalerLimits(),
            "take all 8 CPUs of Ray's cluster and leave none to decode images; ask for fewer --workers",
        ),
        (
            ResourcesConfig(workers=8, gpu=True),
            AutoscalerLimits(True, {"CPU": 64.0, "GPU": 4.0}),
            "need 8 GPUs, but Ray's autoscaler gives 4 at most; ask for fewer --workers",
        ),
    ],
)
def test_what_the_cluster_can_never_give_is_refused(
    resources: ResourcesConfig, growth: AutoscalerLimits, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_resources(resources, ONE_NODE, growth)


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


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of something that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_something_that_is_no_ray(
    silent: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would try it for minutes."""
    monkeypatch.setattr(session_module, "CONNECT_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setenv("RAY_ADDRESS", silent)
    assert main(TRAIN.format(place).split()) != 0
    message = f"no Ray cluster answers at {silent} (what listens there is not Ray); check RAY_ADDRESS"
    assert message in capsys.readouterr().err


def test_a_model_server_that_hangs(
    silent: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "HEALTH_CHECK_SECONDS", 0.3)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{silent}")
    assert main(f"evaluate models:/mipnet@champion --storage {place}/storage".split()) != 0
    message = f"no MLflow server answers at http://{silent} (timed out); check MLFLOW_TRACKING_URI"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "command", "message"),
    [
        (ANNOTATIONS, TRAIN, rf"cannot read {{0}}/data/{ANNOTATIONS} \(Permission denied\); check its perm"),
        ("model.json", EVALUATE, r"cannot use {0}/model/model.json \(Permission denied\); change its perm"),
        (
            "weights.safetensors",
            EVALUATE,
            r"cannot read {0}/model/weights.* \(Permission denied\); check its",
        ),
    ],
)
def test_what_may_not_be_read_is_named(
    name: str,
    command: str,
    message: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good_model(place)
    really_open = io.open

    def guarded(file: object, *args: object, **kwargs: object) -> object:
        if str(file).endswith(name):  # permission bits do not bind the root user that tests may run as
            raise PermissionError(errno.EACCES, "as the system says it", str(file))
        return really_open(file, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", guarded)
    monkeypatch.setattr("io.open", guarded)
    assert main(command.format(place).split()) != 0
    assert re.search(message.format(re.escape(str(place))), capsys.readouterr().err)


def test_a_cluster_that_grows_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    check_resources(ResourcesConfig(workers=3, gpu=True), ONE_NODE, AutoscalerLimits(True))
    check_resources(
        ResourcesConfig(workers=3, gpu=True), [], AutoscalerLimits(True, {"CPU": 4.0, "GPU": 3.0})
    )
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"Ray has room for {n} of 3 worker(s) now; its autoscaler has to start nodes" for n in (2, 0)
    ]


def test_files_that_other_nodes_cannot_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pretended node, whose disk is elsewhere; that real nodes are asked is for ``test_raysession``."""

    def elsewhere(question: Callable[..., str], what: object, *args: object) -> list[tuple[str, str]]:
        there = Folder.of(tmp_path / "node") if isinstance(what, Folder) else [f"{tmp_path}/node/0.jpg"]
        return [("10.0.0.2", question(there, *args))]

    monkeypatch.setattr(probes, "problems_by_node", elsewhere)
    message = (
        r"node 10.0.0.2 cannot use the storage .*/storage \(does not see .*\); give a --storage that all"
    )
    with pytest.raises(UserError, match=message):
        probes.probe_storage(Folder.of(tmp_path / "storage"))
    assert not list((tmp_path / "storage").glob(".probe*"))
    (tmp_path / "0.jpg").write_text("")
    message = r"node 10.0.0.2 cannot read .*/node/0.jpg \(No such file or directory\); put it where all nodes"
    with pytest.raises(UserError, match=message):
        probes.probe_files([f"{tmp_path}/0.jpg"])


def test_a_cluster_that_demands_a_token(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster") from RuntimeError(
            "InvalidAuthToken: missing"
        )

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(session_module, "_check_reachable", lambda address: None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert main(TRAIN.format(place).split()) != 0
    said = capsys.readouterr().err
    assert (
        "the Ray cluster at 10.0.0.1:6379 demands a token, and takes none of ours; give it in RAY_AU" in said
    )


UNTRACKED = "--tracking.register false "


@pytest.mark.ray
def test_too_many_unreadable_images_stop_a_training(
    on_ray: None, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("data/train/3.jpg", "junk")(place)  # it shows 4 of the 30 people
    command = TRAIN.format(place) + UNTRACKED + "--epochs 1 --data.max-bad-share 0.1"
    assert main(command.split()) == 1
    said = capsys.readouterr()
    (line,) = said.err.strip().splitlines()
    message = (
        rf"training stopped at step 2: [45] of 32 samples have images that cannot be read \({place}/data/"
    )
    assert re.match(f"mipnet: {message}train/3.jpg\\); mend them, or raise --data.max-bad-share", line), line
    assert f"left out: 1 x image that cannot be read: {place}/data/train/3.jpg" in said.out
    assert (next((place / "storage" / "runs").iterdir()) / "unreadable.txt").read_text().splitlines() == [
        f"{place}/data/train/3.jpg"
    ]


@pytest.mark.ray
def test_too_many_unreadable_images_stop_an_evaluation(
    on_ray: None, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good_model(place)
    write("data/train/3.jpg", "junk")(place)
    assert main(EVALUATE.format(place).split()) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == (
        f"mipnet: 1 of 12 images cannot be read ({place}/data/train/3.jpg); "
        "mend them, or raise --data.max-bad-share"
    )


@pytest.mark.ray
@pytest.mark.slow
def test_what_was_left_out_is_named_once_in_the_summary(
    on_ray: None, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad people and bad images below the limit, over several epochs."""
    first_person(bbox=[500, 500, 10, 10])(place)
    write("data/train/3.jpg", "junk")(place)
    command = TRAIN.format(place) + UNTRACKED + "--epochs 3 --data.max-bad-share 0.2"
    assert main(command.split()) == 0
    said = capsys.readouterr().out
    (run,) = (place / "storage" / "runs").iterdir()
    left_out = [
        line for line in (run / "summary.txt").read_text().splitlines() if line.startswith("left out")
    ]
    assert left_out == [
        f"left out  1 x box outside its image: annotation 100 of 0.jpg (in {place}/data/{ANNOTATIONS})",
        f"left out  1 x image that cannot be read: {place}/data/train/3.jpg (all: {run}/unreadable.txt)",
    ]
    assert said.count("cannot be read: ") == 2  # when it was met, and in the summary
