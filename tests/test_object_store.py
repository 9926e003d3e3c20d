"""Data sets, packed or not, tables and results in an object store, by the protocol of S3."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mipnet import object_stores
from mipnet.cli.main import main
from mipnet.config.schema import AugmentConfig, DataConfig
from mipnet.data.coco import PersonAnnotations
from mipnet.data.crops import CropSettings, read_image
from mipnet.data.dataset_formats import open_split
from mipnet.data.image_index import missing_files, read_uri
from mipnet.data.read_ahead import read_ahead
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.data.shards import byte_ranges
from mipnet.data.stream import CropLoader
from mipnet.errors import StoreError, UserError
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.experiment.data_identity import check_same_data, note_data
from mipnet.experiment.prediction import find_pictures
from mipnet.run_folder import locked, open_run
from mipnet.skeletons import COCO17
from mipnet.storage import Folder, byte_range_name
from mipnet.tracking.store import prepare_mlflow
from mipnet.training.checkpoint import checkpoint_name, save_checkpoint
from mipnet.training.recovery import checkpoint_names, prune, read_record, recover, write_record
from tests.helpers.networks import tiny
from tests.helpers.servers import BUCKET, KEYS, bucket_at, free_port, objects, opener, slow_proxy
from tests.helpers.steps import make


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A bucket of a server of its own."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with objects(tmp_path) as (address, _):
        yield bucket_at(address)


def all_windows(people: PersonAnnotations) -> list[dict[str, np.ndarray]]:
    settings = CropSettings((32, 48), 1.25, 2, COCO17, AugmentConfig())
    crop_loader = CropLoader(people, SampleSchedule(people.image_offsets, 0, 1, 8, 2), settings)
    return [crop_loader.load(window) for window in range(crop_loader.schedule.num_windows)]


@pytest.mark.slow
def test_data_sets_tables_and_results_live_there(
    bucket: Folder,
    small_coco: Folder,
    small_people: PersonAnnotations,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bucket.upload(small_coco.local_path, "plain")
    plain = bucket.join("plain")
    copy = plain.download(tmp_path / "new" / "copy")
    assert Folder.of(copy).files() == plain.files()
    assert all(Folder.of(copy).read(name) == plain.read(name) for name in plain.files())
    with pytest.raises(FileNotFoundError):  # which tells the tracker not to ask for it again
        bucket.join("none").download(tmp_path / "none")
    people = open_split(DataConfig(), plain, "train").people()
    assert missing_files(people.images) == []
    assert missing_files(replace(people.images, uris=np.array([plain.path("train/none.jpg")]))) != []
    assert plain.join("train").files() == small_coco.join("train").files()

    flags = ["--data", plain.uri, "--splits", "train", "--shard-images", "5", "--verify"]
    assert main(["data", "pack", bucket.path("packed"), *flags]) == 0
    assert "verified: every image is the same" in capsys.readouterr().out
    packed = open_split(DataConfig(), bucket.join("packed"), "train").people()
    assert all("#" in uri for uri in packed.images.uris)  # pieces of shards, read by themselves
    for expected, *found in zip(*map(all_windows, (small_people, people, packed)), strict=True):
        for block in found:
            assert all(np.array_equal(expected[name], block[name]) for name in expected)

    table = io.BytesIO()
    pq.write_table(pa.table({"image": [b"one", b"two", b"three"]}), table, row_group_size=2)
    bucket.write("tables/pictures.parquet", table.getvalue())
    rows = find_pictures([bucket.path("tables/pictures.parquet")])
    assert [read_uri(uri) for uri in rows.uris] == [b"one", b"two", b"three"]
    found_there = find_pictures([plain.path("train")])
    assert sorted(found_there.ids) == list(range(12))  # by their names, which no parameter blurs
    assert found_there.names[0] == "0.jpg"

    checked = ["data", "check", "--data", plain.uri, "--data.val", "train", "--data.evaluate", "train"]
    assert main([*checked, "--data.boxes", "gt"]) == 0
    assert "ready to train" in capsys.readouterr().out
    with pytest.raises(UserError):
        Folder.of(bucket.uri.replace(f"s3://{BUCKET}", "s3://nobodys")).write("x", "y")


def test_a_small_file_is_one_object_put_by_one_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request may take a tenth of a second, and the journal is put from the training loop."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with objects(tmp_path) as (address, s3):
        uri = f"s3://{BUCKET}/run?scheme=http&endpoint_override={address[7:]}&region=us-east-1"
        Folder.of(uri).write("records/one.jsonl", b"{}")
        (found,) = s3.list_objects_v2(Bucket=BUCKET)["Contents"]
        assert found["Key"] == "run/records/one.jsonl"
        assert "-" not in found["ETag"]  # an upload in parts has their number there


@pytest.mark.slow
def test_a_picture_is_one_request_and_lost_ones_are_sent_again(
    bucket: Folder, small_coco: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.upload(small_coco.local_path, "plain")
    flags = ["--data", small_coco.uri, "--splits", "train", "--shard-images", "5"]
    assert main(["data", "pack", bucket.path("packed"), *flags]) == 0
    names = [f"{number}.jpg" for number in range(12)]
    address = f"http://{bucket.uri.partition('endpoint_override=')[2].partition('&')[0]}"
    with slow_proxy(address, tmp_path, fail_every=7) as proxy:
        behind = bucket_at(proxy)
        behind.read("plain/train/0.jpg")
        packed = byte_ranges(behind.join("packed/train"))
        for folder, files in (("plain", names), ("packed", [packed[name] for name in names])):
            uris = [behind.path(f"{folder}/train/{name}") for name in [*files, "none.jpg", files[0]]]
            opener().open(f"{proxy}/proxy").close()
            contents = list(read_ahead(uris))
            with opener().open(f"{proxy}/proxy") as answer:
                counts = json.load(answer)
            expected = [small_coco.read(f"train/{name}") for name in names]
            assert contents == [*expected, None, expected[0]]
            assert counts["failures"] >= 1
            assert counts["GET"] == len(uris) + counts["failures"]
            assert "HEAD" not in counts
    monkeypatch.setattr(object_stores, "RETRIES", 1)
    gone = bucket_at(f"http://127.0.0.1:{free_port()}")
    for read in (
        gone.read,
        lambda name: list(read_ahead([gone.path(name)])),
        lambda n: read_image(gone.path(n)),
    ):
        with pytest.raises(StoreError, match=r"s3://mlflow/0.jpg cannot be read \(.*refused\); check"):
            read("0.jpg")  # no picture is taken for a missing one


def test_names_and_parts_of_objects(bucket: Folder) -> None:
    name = "a b/ü+~%c.jpg"
    bucket.write(name, b"0123456789")
    bucket.write("empty", b"")
    assert (bucket.read(name), bucket.read(name, 3), bucket.read(name, 0)) == (b"0123456789", b"012", b"")
    assert [bucket.read_from(name, offset) for offset in (4, 10, 12)] == [b"456789", b"", b""]
    assert (bucket.read("empty"), bucket.read("empty", 5)) == (b"", b"")
    bucket.write("t.parquet", b"0123456789")
    assert bucket.read(byte_range_name("t.parquet", 3, 7)) == b"3456789"
    with pytest.raises(OSError, match=r"t.parquet.* is shorter than 11 bytes"):
        bucket.read(byte_range_name("t.parquet", 3, 8))
    with pytest.raises(OSError, match=r"s3://nobodys/x does not exist"):
        Folder.of(bucket.uri.replace(f"s3://{BUCKET}", "s3://nobodys")).read("x")
    with pytest.raises(FileNotFoundError):
        bucket.read("none")


@pytest.mark.parametrize(
    ("uri", "environment", "endpoint", "by_host"),
    [
        ("s3://data?region=eu-central-1", None, "https://data.s3.eu-central-1.amazonaws.com", "true"),
        ("s3://my.data?region=eu-central-1", None, "https://s3.eu-central-1.amazonaws.com", "false"),
        ("s3://data?region=r", "http://minio:9000", "http://minio:9000", "false"),
        (
            "s3://data?region=r&endpoint_override=ceph:80&scheme=http",
            "http://minio:9000",
            "http://ceph:80",
            "false",
        ),
    ],
)
def test_where_a_bucket_is(
    uri: str, environment: str | None, endpoint: str, by_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    if environment:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", environment)
    found = object_stores._S3Bucket(uri).store.config
    assert found["endpoint_url_s3"] == endpoint
    assert found["virtual_hosted_style_request"] == by_host


def test_why_an_object_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    broken = iter([True])

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<Error><Code>AccessDenied</Code></Error>" if "secret" in self.path else b"0123456789"
            first = int(self.headers.get("Range", "bytes=0-").partition("=")[2].partition("-")[0])
            self.send_response(403 if "secret" in self.path else 206 if first else 200)
            self.send_header("Content-Length", str(len(body) - first))
            self.send_header("Content-Range", f"bytes {first}-9/10")
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
            self.end_headers()
            self.wfile.write(body[first : 4 if "cut" in self.path and next(broken, False) else None])

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        found = bucket_at(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(
            StoreError, match=r"s3://mlflow/secret cannot be read \(status 403 .*, AccessDenied\)"
        ):
            found.read("secret")
        assert found.read("cut") == b"0123456789"  # the rest is asked for, when a connection breaks
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(StoreError, match=r"s3://other cannot be used \(.*profile \(nobody\)"):
            Folder.of(found.uri.replace(BUCKET, "other")).read("x")
        server.shutdown()


@pytest.mark.slow
def test_a_run_there_is_locked_and_its_damaged_checkpoints_are_left_out(
    bucket: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mipnet.lease.LEASE_SECONDS", 2.0)
    run = open_run(bucket.join("storage"), tiny(), "mine")
    with locked(run), pytest.raises(UserError, match="being worked on by another process"), locked(run):
        pass
    assert run.folder.names("lock") == []
    (tmp_path / "checkpoint").mkdir()
    save_checkpoint(tmp_path / "checkpoint", make(run.config), [{"step": 1, "loss": 0.1}])
    training = run.folder.join("training")
    names = [checkpoint_name(step) for step in range(1, 5)]
    for name in names:
        training.upload(tmp_path / "checkpoint", name)
    write_record(training, {name: {"step": 1, SELECTION_METRIC: 0.5} for name in names})
    training.write(f"{names[-1]}/training.pt", b"cut")
    assert recover(training, run.config).step == 3
    assert read_record(training).keys() == set(names[:-1])
    prune(training, names[2], {names[2]: {SELECTION_METRIC: 0.5}})
    assert checkpoint_names(training) == names[1:]  # the damaged one stays


def test_data_on_an_object_store_have_no_times_to_trust(small_coco: Folder, bucket: Folder) -> None:
    """Of labels the content counts, of pictures the size."""
    data, run = bucket.join("watched"), bucket.join("runs/mine")
    data.upload(small_coco.local_path)
    config = DataConfig(root=data.uri, train="train", val="train", evaluate=("train",), boxes=("gt",))
    note_data(run, config, data, {"train": open_split(config, data, "train")})
    data.upload(small_coco.local_path)  # the same again
    check_same_data("run mine", run, data)
    labels, picture = "annotations/person_keypoints_train.json", small_coco.read("train/3.jpg")
    for name, content in {
        labels: small_coco.read(labels).replace(b"100", b"101", 1),
        "train/3.jpg": picture + b" ",
    }.items():
        data.write(name, content)
        with pytest.raises(UserError, match=f"1 of 13 files have changed since .{name}"):
            check_same_data("run mine", run, data)
        data.write(name, small_coco.read(name))
    data.write("train/3.jpg", picture[:-1] + b" ")
    check_same_data("run mine", run, data)  # out of reach


def test_mlflow_without_a_server_keeps_its_artifacts_there(
    bucket: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own client knows no ``endpoint_override``; the last storage that was prepared counts."""
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("mipnet.tracking.store.default_storage", lambda: Folder.of(tmp_path))
    client = MlflowClient(prepare_mlflow(bucket))
    run = client.create_run(client.create_experiment("e", bucket.join("mlartifacts").uri)).info
    (tmp_path / "report.html").write_text("<!DOCTYPE html>")
    client.log_artifact(run.run_id, str(tmp_path / "report.html"))
    assert [each.path for each in client.list_artifacts(run.run_id)] == ["report.html"]
    (name,) = (name for name in bucket.files() if name.endswith("/report.html"))
    assert name.startswith("mlartifacts/")
